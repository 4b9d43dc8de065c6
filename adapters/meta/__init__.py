"""What Meta's platforms share.

signing     handshake and signature, and graph: addresses, token, errors; with WhatsApp too
messaging   webhooks of Messenger and Instagram into events    shapes   what a message says
composing   bodies of messages, and what does not fit          sending  sends into calls, answers into results
describing  what accounts are made of                          limits   the platforms' numbers
errors      what codes mean                                    media    files that customers send
account     does it work, and who is a customer?
"""
