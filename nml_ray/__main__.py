"""`python -m nml_ray` is `nml-ray`."""

from nml_ray.cli.main import main

main()
