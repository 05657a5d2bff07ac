"""Starts a worker: `python -m worker`; free of imports, for each runner reads this file again as its main module."""

if __name__ == "__main__":
    from worker.start import main

    main()
