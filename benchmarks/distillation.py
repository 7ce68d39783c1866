"""What does a small student learn from a teacher? One teacher, then the same student alone and taught.

    python benchmarks/distillation.py --folder runs/distillation            # some minutes on one core
    python benchmarks/distillation.py --folder runs/distillation --table    # what is there so far

Which part of Python's library is a docstring from? The teacher is minilm-l6 (22.7 M parameters), fine-tuned on a few
rows of each label; the students have two layers of width 128 and random weights. A seed draws as many rows for its
students, the first those of the teacher; where their labels are unseen, more rows, in as many steps. Every run is a
folder: stop it whenever you like, the same command goes on.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

STUDENTS: dict[str, dict[str, Any] | None] = {
    "student alone": None,
    "student taught": {"temperature": 2.0, "alpha": 0.9},
    "student taught, labels unseen": {"temperature": 2.0, "alpha": 1.0},
    "student taught, more rows, labels unseen": {"temperature": 2.0, "alpha": 1.0},
}
TEACHER = "teacher"
MORE = 8
"""Times as many rows where there are more of them, and passes that are fewer by as much."""


def recipe(folder: Path, name: str, shots: int, epochs: int, seed: int, held: int) -> dict[str, Any]:
    """What all runs have in common: the rows, the held-out ones, and how long."""
    return {
        "name": name.replace(" ", "-").replace(",", ""), "seed": seed,
        "data": {"train": "builtin:docstring-topics", "shots": shots, "validation": held, "max_length": 48},
        "task": "classification",
        "training": {"num_train_epochs": epochs, "global_batch_size": 16, "warmup_steps": 0.1, "precision": "fp32"},
        "output_dir": str(folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}")}


def teaching(folder: Path, shots: int, held: int) -> dict[str, Any]:
    """The teacher's recipe."""
    made = {**recipe(folder, TEACHER, shots, 3, 1, held), "backbone": {"pretrained": "minilm-l6"}}
    made["training"] |= {"learning_rate": 3e-4}
    return made


def learning(
    folder: Path, student: str, shots: int, epochs: int, seed: int, held: int,
) -> dict[str, Any]:
    """A student's recipe: only the teacher differs."""
    teacher = str(folder / f"{TEACHER}-1")
    if "more rows" in student:
        shots, epochs = shots * MORE, max(1, epochs // MORE)
    made = {**recipe(folder, student, shots, epochs, seed, held), "backbone": {"family": "bert", "size": "tiny"},
            "tokenizer": {"pretrained": teacher}}
    made["training"] |= {"learning_rate": 5e-4}
    return made if STUDENTS[student] is None else {**made, "teacher": {"model": teacher, **(STUDENTS[student] or {})}}


def table(folder: Path, seeds: list[int]) -> str:
    """A line each: parameters, accuracy (mean and each seed's), agreement with the teacher, seconds."""
    lines = ["| | parameters | accuracy | of each seed | agrees with its teacher | seconds |",
             "|---|---:|---:|---|---:|---:|"]
    for name in (TEACHER, *STUDENTS):
        found = [json.loads(path.read_text()) for seed in ([1] if name == TEACHER else seeds)
                 if (path := folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}" / "summary.json").is_file()]
        found = [one for one in found if one["status"] == "completed"]
        if not found:
            continue
        right = [100 * one["evaluation"]["accuracy"] for one in found]
        same = [100 * one["evaluation"]["agreement"] for one in found if "agreement" in one["evaluation"]]
        lines.append(f"| {name} | {found[0]['parameters'] / 1e6:.1f} M | {statistics.mean(right):.1f} % | "
                     f"{', '.join(f'{one:.1f}' for one in right)} | "
                     f"{f'{statistics.mean(same):.1f} %' if same else ''} | "
                     f"{statistics.mean(one['wall_seconds'] for one in found):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--validation", type=int, default=1000, help="rows that are held out")
    parser.add_argument("--shots", type=int, default=32, help="rows a label")
    parser.add_argument("--epochs", type=int, default=24, help="of a student")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--table", action="store_true", help="print the table and train nothing")
    given = parser.parse_args()
    if not given.table:
        from llmkit.training.fit import fit

        fit(teaching(given.folder, given.shots, given.validation))
        for seed in given.seeds:
            for student in STUDENTS:
                fit(learning(given.folder, student, given.shots, given.epochs, seed, given.validation))
    print(table(given.folder, given.seeds))


if __name__ == "__main__":
    main()
