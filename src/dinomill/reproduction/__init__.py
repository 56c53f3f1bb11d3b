"""Making a registered version again, from its commit, its dataset and its settings, and saying how near that comes.

<into>/              the code as it was, from the version's commit, with what stands in conf/ there
<into>/conf/local/parameters_recorded.yml   settings that the run had and the commit does not: they were never committed
<into>/data/…        the version's dataset, by DVC's name of it; then what the stages make of it
"""
