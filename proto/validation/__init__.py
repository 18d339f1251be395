"""What a request must look like, whatever the state of its table. Checked once, where it comes in.

Each check takes a parsed message and raises the first error in the order in which the API's own server looks:
clients see which of two mistakes wins. What depends on the table's state is the state machine's to answer.
"""
