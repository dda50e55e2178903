"""Tables of time and memory: our own encoder, the machine's limit, builds, servers, C++ and training steps."""

from statistics import median

from benchmarks.common import middle_half
from benchmarks.tables import not_yet, on, result, times
from m2d_export.report.formatting import milliseconds, plain_table, rate, share

RUNTIMES = {"openvino": "OpenVINO", "onnxrt": "ONNX Runtime"}


def speed() -> str:
    """Our ``encode`` and that of sentence-transformers."""
    found = result("encode_speed.json")
    systems = {"m2d_export": "**m2d-export**", "sentence_transformers": "sentence-transformers"}
    rows = []
    for key, name in systems.items():
        low, high = (found["texts"] / seconds for seconds in reversed(middle_half(found[f"{key}_seconds"])))
        rows.append([name, rate(found[f"{key}_per_second"]), f"{rate(low)}–{rate(high)}"])
    facts = (
        f"- Ratio of the medians: {times(found['ratio'])}. Median of the ratios in each round: "
        f"{times(median(found['ratio_each_round']))}.\n"
        f"- The cosine between both vectors of a sentence is {found['least_cosine']:.7f} or more."
    )
    where = f"{found['texts']:,} sentences of STS-B test, {found['rounds']} rounds; {on(found['machine'])}."
    return f"{plain_table(['system', 'sentences/s', 'middle half of the rounds'], rows)}\n\n{facts}\n\n{where}"


def static() -> str:
    """Texts a second of exit 0, and of model2vec with the same table."""
    if missing := not_yet("static.json", "static DISTILLED minilm.m2d"):
        return missing
    found = result("static.json")
    kinds = list(dict.fromkeys(row["texts"] for row in found["rows"]))
    by_system: dict[str, dict[str, float]] = {}
    for row in found["rows"]:
        by_system.setdefault(row["system"], {})[row["texts"]] = row["per_second"]
    peer = next(iter(by_system.values()))
    rows = [
        [name, *(f"{rate(speed[kind])} ({times(speed[kind] / peer[kind])})" for kind in kinds)]
        for name, speed in by_system.items()
    ]
    where = f"Medians of {found['rounds']} rounds, tokenization included; {on(found['machine'])}."
    return f"{plain_table(['system', *(f'{kind} texts/s' for kind in kinds)], rows)}\n\n{where}"


def cost() -> str:
    """Seconds of each step of a build, and the size of its files."""
    found = result("build_cost.json")
    parity = {step: seconds for step, seconds in found["steps"].items() if step.startswith("parity")}
    steps = {step: seconds for step, seconds in found["steps"].items() if step not in parity}
    rows = [[step, f"{seconds:.1f} s"] for step, seconds in steps.items() if seconds >= 0.1]
    rows.append([f"parity of {len(parity)} exits", f"{sum(parity.values()):.1f} s"])
    rows.append(["**in all**", f"**{found['seconds']:.1f} s**"])
    size = found["all_graphs_over_the_deepest_alone"]
    fact = f"- All {found['graphs']} exits take {size:.3f}x the space of the deepest one."
    return f"{plain_table(['step', 'time'], rows)}\n\n{fact}\n\n{on(found['machine'])}."


def open_exits() -> str:
    """Memory of a process with every exit open, by runtime and precision."""
    found = result("open_exits.json")
    header = ["runtime", "precision", f"all {found['exits']} exits open", "only the deepest"]
    rows = [
        [row["runtime"], row["precision"], f"{row['all_mb']:,.0f} MB", f"{row['deepest_mb']:,.0f} MB"]
        for row in found["rows"]
    ]
    return f"{plain_table(header, rows)}\n\nPeak resident memory of the process; {on(found['machine'])}."


def long_texts() -> str:
    """Memory of long texts, of texts of 10 MB and of a build."""
    found = result("memory.json")
    systems = list(next(iter(found["texts"].values())))
    rows = [
        [f"{name} tokens", *(f"{row[system]:,.0f} MB" for system in systems)] for name, row in found["texts"].items()
    ]
    smallest, largest = (f"{limit(found['large_texts'].values()):.0f} MB" for limit in (min, max))
    build = found["build"]
    facts = (
        f"- A text of 10 MB takes {smallest} to {largest}, whatever its characters are.\n"
        f"- A build of {build['weights']:.0f} MB of weights takes {build['over_imports']:,.0f} MB."
    )
    return f"{plain_table(['texts', *systems], rows)}\n\n{facts}\n\n{on(found['machine'])}."


def stream() -> str:
    """Memory while many texts go through an encoder."""
    found = result("stream.json")
    step = found["texts"] // len(found["memory_mb"])
    rows = [[f"{step * place:,}", f"{mb:,.0f} MB"] for place, mb in enumerate(found["memory_mb"], 1)]
    facts = (
        f"- After the warm-up, memory grows by {found['slope_mb']:.2f} MB per 100,000 texts.\n"
        "- The vectors are in the order of the texts."
    )
    return f"{plain_table(['texts', 'memory of the process'], rows)}\n\n{facts}\n\n{on(found['machine'])}."


def ceiling() -> str:
    """``encode`` as a share of the bare matmul rate, and the kinds of operations that take its time."""
    found = result("ceiling.json")
    header = [
        *("runtime", "precision", "matmuls only", "`encode`, short texts", "`encode`, long texts"),
        *("`encode`, share of the peak, short texts", "what takes the time of the graph, short texts"),
    ]
    rows = []
    for row in found["rows"]:
        peak, done = row["peak_operations_per_second"], row["operations_per_second"]
        kinds = [f"{kind} {share(part)}" for kind, part in row["profile_short"].items()]
        rows.append(
            [
                row["runtime"],
                row["precision"],
                f"{done['matmuls'] / 1e9:,.0f} Gop/s",
                share(row["share_short"]),
                share(row["share_long"]),
                share(done["short"] / peak if peak else None),
                ", ".join(kinds[:4]),
            ]
        )
    return f"{plain_table(header, rows)}\n\n{on(found['machine'])}."


def settings() -> str:
    """The time of calls with each setting of an ONNX Runtime session changed."""
    found = result("session_settings.json")
    milliseconds_of = found["milliseconds"]
    changes = next(iter(milliseconds_of.values()))
    columns = [(precision, shape) for precision in milliseconds_of for shape in next(iter(changes.values()))]
    rows = [
        [change, *(milliseconds(milliseconds_of[precision][change][shape]) for precision, shape in columns)]
        for change in changes
    ]
    header = ["setting", *(f"{precision}, {shape}" for precision, shape in columns)]
    return f"{plain_table(header, rows)}\n\nColumns: precision, texts x tokens of a call. {on(found['machine'])}."


def triton() -> str:
    """A loaded Triton server, and the encoder in a process of its own."""
    found = result("triton.json")
    header = [
        *("precision", "merged requests", "single requests", "mean batch", "p50", "p99", "failed requests"),
        *("merged, share of `Encoder`", "least cosine to `Encoder`", "time to write the graph", "time to check it"),
    ]
    rows = [
        [
            precision,
            f"{rate(row['merged']['per_second'])}/s",
            f"{rate(row['single']['per_second'])}/s",
            f"{row['merged']['mean_batch']:.1f}",
            milliseconds(row["merged"]["p50_ms"]),
            milliseconds(row["merged"]["p99_ms"]),
            str(sum(sum(row[kind]["failed"].values()) for kind in ("merged", "single"))),
            share(row["share_of_encoder"]),
            f"{row['least_cosine_to_encoder']:.6f}",
            f"{row['graph_written_seconds']:.2f} s",
            f"{row['graph_compared_seconds']:.2f} s",
        ]
        for precision, row in found["precisions"].items()
    ]
    ratios = ", ".join(f"{times(row['merged_over_single'])} in {name}" for name, row in found["precisions"].items())
    facts = f"- Merged requests are faster than single requests: {ratios}."
    where = (
        f"Cell {found['cell']} of all-MiniLM-L6-v2, {found['clients']} clients over gRPC with one sentence each, "
        f"{found['rounds']} rounds of {found['seconds']:.0f} s; {on(found['machine'])}."
    )
    return f"{plain_table(header, rows)}\n\n{facts}\n\n{where}"


def cpp() -> str:
    """C++ and Python in the same runtime."""
    found = result("cpp.json")
    header = [
        *("runtime", "precision", "C++, sentences/s", "Python, sentences/s", "C++ rate / Python rate"),
        *("C++, one text, p50", "Python, one text, p50", "C++ time / Python time"),
    ]
    rows = [
        [
            RUNTIMES[runtime],
            precision,
            *(rate(row["per_second"][who]) for who in ("cpp", "python")),
            times(row["bulk_over_python"]),
            *(milliseconds(row["single_p50_ms"][who]) for who in ("cpp", "python")),
            times(row["single_over_python"]),
        ]
        for runtime, rows in found["runtimes"].items()
        for precision, row in rows.items()
    ]
    openvino = found["machine"]["versions"]["openvino"]
    where = (
        f"all-MiniLM-L6-v2 at full depth, {found['texts']:,} sentences; OpenVINO {openvino}, {on(found['machine'])}."
    )
    return f"{plain_table(header, rows)}\n\n{where}"


def train_speed() -> str:
    """A training step of each recipe."""
    found = result("train_speed.json")
    names = {"grid": "grid recipe", "seed": "seed recipe"}
    rows = [
        [title, str(found["cells_per_step"][name]), f"{found['sentences_per_second'][name]:.0f}"]
        for name, title in names.items()
    ]
    fact = f"- The grid recipe trains {times(found['ratio'])} as many sentences per second as the seed recipe."
    where = (
        f"Medians of {len(found['seconds']['grid'])} steps of {found['pairs_per_step']} pairs, all-MiniLM-L6-v2, fp32; "
        f"{on(found['machine'])}."
    )
    return f"{plain_table(['recipe', 'cells trained in a step', 'sentences/s'], rows)}\n\n{fact}\n\n{where}"


def before_after() -> str:
    """Two commits, compared by pairs of processes."""
    found = result("before_after.json")
    rows = [
        [
            row["runtime"],
            row["precision"],
            {"many": f"{found['texts']['many']:,} texts in one call", "single": "one text"}[row["workload"]],
            f"{row['ratio']['mean']:.3f} [{row['ratio']['low']:.3f}, {row['ratio']['high']:.3f}]",
        ]
        for row in found["rows"]
    ]
    before, after = (found["commits"][side][:7] for side in ("before", "after"))
    where = f"Before: {before}, after: {after}; {found['pairs']} pairs of processes, {on(found['machine'])}."
    return f"{plain_table(['runtime', 'precision', 'workload', 'time before / time after'], rows)}\n\n{where}"


def int8() -> str:
    """Cosines of int8 with float32 by change of a constant; what the products in float cost."""
    found = result("int8.json")
    rows, facts = [], []
    for name, checkpoint in found["checkpoints"].items():
        changes = checkpoint["changes"]
        for change, row in changes.items():
            rows.append([name, change, f"{row['mean']:.5f}", f"{row['least']:.4f}", str(len(row["in_float"]))])
        shipped = changes["as shipped"]
        strengths = ", ".join(f"{strength} for {count}" for strength, count in shipped["strengths"].items())
        named = "; ".join(shipped["in_float"]) or "none"
        facts.append(f"- {name}: strengths of products: {strengths}. Products with columns in float: {named}.")
        for shape, taken in checkpoint["milliseconds"].items():
            facts.append(
                f"  - {shape}: {milliseconds(taken['fp32'])} in fp32, {milliseconds(taken['as shipped'])} in int8; "
                f"time as shipped / all in int8: {taken['ratio']:.2f} ({taken['low']:.2f}–{taken['high']:.2f})."
            )
    header = ["checkpoint", "change", "mean cosine of the worst exit", "least cosine of any exit", "products in float"]
    where = f"{found['texts']:,} sentences of STS-B dev; {on(found['machine'])}."
    return "\n\n".join([plain_table(header, rows), "\n".join(facts), where])
