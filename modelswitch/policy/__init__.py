"""What a move demands beyond its line, as pure rules: what they weigh is handed in.

A rule reads no ledger, asks no server and knows no clock; it raises Refused with what it has
found and what to do about it. Whoever moves asks the rules before the first row. A rollback asks
none of them.
"""
