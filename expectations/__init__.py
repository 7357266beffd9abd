"""What a row must be like to enter the lake, and the gate that splits good rows from bad."""
