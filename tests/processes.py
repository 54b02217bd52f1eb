"""Scripts in processes of their own, which start at once: each is a copy of one that has imported torch."""

import multiprocessing
import os
import runpy
import sys

from conftest import ROOT

CONTEXT = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    CONTEXT.set_forkserver_preload(["torch._dynamo", "torch.distributed", "seaborn", "pytest"])


class Script(CONTEXT.Process):
    """`python script options` with these environment variables; what it prints goes to files in a folder."""

    def __init__(self, folder, script, *options, max_file_size=None, encoding="utf-8", **variables):
        super().__init__()
        self.folder, self.command = folder, [script, *map(str, options)]
        self.variables, self.encoding, self.max_file_size = variables, encoding, max_file_size

    def run(self):
        for descriptor, stream in enumerate((sys.stdout, sys.stderr), 1):
            os.dup2(os.open(self.folder / str(descriptor), os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
            stream.reconfigure(encoding=self.encoding)
        if self.max_file_size:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (self.max_file_size, self.max_file_size))
        os.environ.update(self.variables)
        sys.argv = self.command
        runpy.run_path(str(ROOT / self.command[0]), run_name="__main__")

    def finish(self, timeout=100):
        """Wait for its end and return its exit status and what it has printed to stdout and stderr."""
        self.join(timeout)
        assert self.exitcode is not None, "still running"
        printed = ((self.folder / name).read_text(encoding=self.encoding) for name in "12")
        return self.exitcode, *printed
