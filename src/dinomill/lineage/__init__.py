"""The thread from every image to every endpoint, and back.

thread.py     what it is made of: things, what came of what, and what is not at hand
places.py     the environments of a project, and where their results lie
results.py    datasets, networks, versions and archives by their handles, of now and before
recorded.py   the same by MLflow's runs and registry
archives.py   what a .mar holds, and which request a server answered with it
images.py     which datasets an image is in, and which images are in a dataset
find.py       what a name means: a version, an archive, an image, a hash, a request
gather.py     all of it together
show.py, picture.py     as text, as JSON, as a picture
withdrawal.py   what an image touched, and what has to be made again without it
"""
