"""The cells of notebook.ipynb, which build_notebook.py builds."""

# %% [markdown]
# # A Transformer, trained and taken apart
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# Run the cells from top to bottom; they take about a minute. In Colab, upload this notebook, click on the folder
# symbol on the left and upload the zip file of this repository there. The first cell does the rest.

# %%
import os
import sys
import zipfile
from pathlib import Path

for archive in Path().glob("*.zip"):
    zipfile.ZipFile(archive).extractall()
if not Path("train.py").exists():                           # the notebook's folder, or where the zip was uploaded
    os.chdir(next(path.parent for path in [Path("../train.py"), *Path().glob("*/train.py")] if path.exists()))
sys.path.insert(0, os.getcwd())
# %pip install -q -r requirements.txt

# %% [markdown]
# **Train** an encoder to reverse sequences. Its answers are printed as it learns, with wrong symbols in brackets.

# %%
# !python train.py --task reverse --architecture encoder --epochs 25 --output-dir models/notebook

# %% [markdown]
# **Ask** it something. START comes before a question and END after it.

# %%
from data import format_tokens, make_source_and_target, parse_content
from train import load_run

run = load_run("models/notebook", "reverse", "encoder")
source, target = make_source_and_target("reverse", parse_content(["5 9 12 14"], "reverse")[None])
answer = run.model(source).argmax(dim=-1)[:, 1:]
print(format_tokens(source[0]), "→", format_tokens(answer[0]))
print("correct" if answer.equal(target[:, 1:]) else f"incorrect: expected {format_tokens(target[0])}")

# %% [markdown]
# **Look** at what the model reads to answer this question. Which head would you least like to lose?

# %%
# !python visualize.py --models-dir models/notebook --sequence 5 9 12 14

# %%
from IPython.display import HTML, Image, display

display(Image(run.folder / "attention_head_5-9-12-14.png", width=800))

# %% [markdown]
# **Cut** each head in turn, and count the questions that are still answered correctly.

# %%
from lab.evidence import Evidence
from lab.heads import list_heads, part_name

evidence = Evidence(run)
costs = {head: evidence.ablation_cost(head) for head in list_heads(run.model)}
for head in sorted(costs, key=costs.get, reverse=True)[:5]:
    print(f"{part_name(run, head)}: {100 * costs[head]:.1f} points")
print("The head that looks most at the answers:", part_name(run, evidence.top_head))

# %% [markdown]
# **Take it apart** on its live page: type questions, cut heads, and follow the guided experiments.

# %%
import html

from lab.live_page import save_page

save_page(evidence, run.folder / "explorer.html")
page = html.escape((run.folder / "explorer.html").read_text(encoding="utf-8"))
display(HTML(f'<iframe srcdoc="{page}" width="100%" height="900"></iframe>'))

# %% [markdown]
# **Invent a task** of your own. Change what `shift` does, and train again.

# %%
own = """
from torch import Tensor
from data import Task

def shift(content: Tensor) -> Tensor:
    return content.roll(1, dims=1)

TASKS = {"shift": Task(shift)}
"""
Path("my_tasks.py").write_text(own, encoding="utf-8")
# !python train.py --tasks my_tasks.py --task shift --architecture encoder --epochs 25 --output-dir models/notebook
