"""Engineering that any training script needs. You can understand the Transformer without opening it.

    console.py          one-line errors, signals, closed pipes, parsers, devices and threads
    files.py            files replaced as a whole, one writer per folder, archives read safely
    figure.py           the frame of every picture
    distributed.py      micro-batches, and several processes that train one model
    parallel.py         several runs at once, each in its own process, and their progress bars
    own_tasks.py        tasks that readers write: read from a file, and checked
    puzzles.py          the two tasks that need more than a line: add and complete
    config.py           every setting of a run, once, with its help, range and default
    runs.py             the folders of runs: loading them, and which of their files are stale
    report.py           the lines that training prints: scores, sample answers, mistakes, the table
    record.py           attention after each epoch, for the animation
    training_plot.py    loss and accuracy of a run

The first six import nothing of ours but each other. The others also use transformer.py and data.py.
"""
