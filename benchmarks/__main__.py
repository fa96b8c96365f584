"""`python -m benchmarks` is `python -m benchmarks.overhead`."""

from benchmarks.overhead import main

if __name__ == "__main__":
    main()
