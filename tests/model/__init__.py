"""The protocol as an explicit-state model: every interleaving of small worlds, checked.

It explores what commands, agents and faults can do to one ledger, one published document and two
servers, and says which promise breaks, with the story that leads there. What decides is the
product's own code: `line` (the moves), `pins.render_model` (what is published), `ledger.chain`
(a row's place and generation), `ledger.derive` (quarantine, ways back), `agent.plan.diff` (what
an agent does next). What the model adds is only the order of steps. No I/O, clock or randomness.

`rules` the rules, each a switch, and the promises · `book` ledgers and pins · `rows` what no row
may do · `commands`, `agents` the actors · `checker` the search · `worlds` what is explored ·
`story` a counterexample in words. `python -m tests.model --long` explores the large worlds.
"""
