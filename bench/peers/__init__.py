"""What the benches stand beside: other people's tools, used as their users use them."""
