"""docs/results.md, out of results/*.json.

python experiments/real_tasks/table.py
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "results.md"
HEAD = """# Results

Real tasks on public data, each by one script of `experiments/real_tasks/`, run on the machine that
is named; `DIR` holds the archives of the data. What a script wrote, with all figures, the whole
config, versions and revision (`+`: with changes that were not committed yet), lies in
`experiments/real_tasks/results/`, and this page is made of those files. Minutes are of training
with its evaluations, on a machine that others used at the same time.

| task | ours | to compare: published, or chance | minutes |
|---|---|---|---|
"""


def page() -> str:
    found = [json.loads(path.read_text()) for path in sorted(HERE.glob("results/*.json"))]
    return HEAD + "".join(map(line, found)) + "\n## How\n\n" + "\n".join(map(details, found))


def line(row: dict) -> str:
    told = [f"{shown(row, one['value'])} ({one['setting']})" for one in row["published"]]
    others = "; ".join(told)
    minutes = "" if row["minutes"] is None else f"{row['minutes']:.0f}"
    ours = f"**{shown(row, row['value'])}**"
    return f"| [{row['title']}](#{row['task']}) | {ours} | {others or 'none'} | {minutes} |\n"


def shown(row: dict, value: float) -> str:
    if row["unit"].startswith("%"):
        return f"{100 * value:.1f} {row['unit']}"
    return f"{value:.4g} {row['unit']}"


def details(row: dict) -> str:
    sources = sorted({one["source"] for one in row["published"]})
    lines = [
        f"### {row['task']}\n",
        f"{row['title'][0].upper()}{row['title'][1:]}: `{row['figure']}`. {row['setting']}.\n",
        f"```sh\n{row['command']}\n```\n",
        f"{row['machine']}, {row['date']}."
        + (f" Published: {'; '.join(sources)}." * bool(sources)),
    ]
    if len(row["runs"]) > 1:
        each = ", ".join(
            f"{name} {shown(row, run['figures'][row['figure']])}"
            for name, run in row["runs"].items()
        )
        lines.append(f"\nEach run: {each}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE} has {len(list(HERE.glob('results/*.json')))} tasks")
