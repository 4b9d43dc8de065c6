"""`python -m bench` says which benches there are."""

from bench.all import print_list

if __name__ == "__main__":
    print_list()
