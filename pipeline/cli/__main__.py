"""`python -m pipeline.cli` is `clip2seg`: for launchers that start a module, such as torchrun."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
