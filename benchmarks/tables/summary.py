"""The figures that the README quotes."""

from benchmarks.tables import EXIT, result, times
from benchmarks.tables.peers import AT_EXIT, fastest, processor
from benchmarks.tables.quality import SHIPPED, UNTOUCHED, Scores, axes_of, retention, scores_of
from m2d_export import Cell
from m2d_export.report.formatting import milliseconds, plain_table, score, share

PAGE = "benchmarks/README.md"


def at_full_width(scores: Scores, layer: int) -> str:
    """The score of an exit at the widest dim."""
    return score(scores[Cell(layer, axes_of(scores)[1][0])])


def headline() -> str:
    """Three facts as a list."""
    ours, base = scores_of(SHIPPED), scores_of(UNTOUCHED)
    depth = axes_of(ours)[0][0]
    found, built = result("peers.json"), result("build_cost.json")
    best = fastest(found, "short")
    ours_named = (name.removeprefix("m2d-export ").removesuffix(f" {AT_EXIT}") for name in (best.exit, best.full))
    how = " and ".join(dict.fromkeys(ours_named))
    at_exit, at_depth, of_peer = (score(best.rows[name]["score"]) for name in (best.exit, best.full, best.peer))
    return "\n".join(
        [
            f"- **{share(retention(ours, EXIT))} of the score with {EXIT} of {depth} layers**: "
            f"{at_full_width(ours, EXIT)} of {at_full_width(ours, depth)} on STS-B (Spearman x 100), with the trained "
            f"checkpoint in `models/`. Before its training, {EXIT} layers score {at_full_width(base, EXIT)} of "
            f"{at_full_width(base, depth)}.",
            f"- **{times(best.ratio(best.exit))} the throughput of the fastest peer** ({best.peer}) at exit {EXIT} of "
            f"this checkpoint, and {times(best.ratio(best.full))} at full depth of the peer's own checkpoint, "
            f"with {how}. Scores are nearly equal: {at_exit}, {at_depth}, and {of_peer} for the peer. "
            f"Measured on {processor(found)}.",
            f"- **{built['all_graphs_over_the_deepest_alone']:.3f}x the size** of the deepest exit is enough for all "
            f"{built['graphs']} exits, because they share one file of weights.",
        ]
    )


def results() -> str:
    """Six questions, each with its figure and a link to its section."""
    ours, base = scores_of(SHIPPED), scores_of(UNTOUCHED)
    depth = axes_of(ours)[0][0]
    short, single = (fastest(result("peers.json"), workload) for workload in ("short", "single"))
    shares = [row["share_short"] for row in result("ceiling.json")["rows"]]
    agreement, built = result("agreement_vs_score.json"), result("build_cost.json")
    size = built["all_graphs_over_the_deepest_alone"]
    latency = {name: milliseconds(single.rows[name]["single_p50_ms"]) for name in (single.full, single.peer)}
    rows = [
        (
            "How much of the score does an exit keep?",
            f"exit {EXIT}: {share(retention(ours, EXIT))} (before the training: {share(retention(base, EXIT))})",
            "scores-of-the-shipped-checkpoint",
        ),
        (
            "How many texts a second, compared with the fastest peer?",
            f"{times(short.ratio(short.full))} at full depth, {times(short.ratio(short.exit))} at exit {EXIT}",
            "other-libraries",
        ),
        (
            f"How long does one text take, at all {depth} layers?",
            f"{latency[single.full]} (fastest peer: {latency[single.peer]})",
            "other-libraries",
        ),
        (
            "What share of the machine's matmul rate does `encode` reach?",
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %, by runtime and precision",
            "the-machines-limit",
        ),
        (
            "Does agreement on unlabelled text rank the cells as the score does?",
            f"rank correlation {agreement['rank_correlation']['spearman']:.3f}",
            "agreement-without-labels",
        ),
        (
            "What does a build cost?",
            f"{built['seconds']:.0f} s; all exits take {size:.3f}x the space of the deepest",
            "builds",
        ),
    ]
    return plain_table(["question", "result"], [[f"[{ask}]({PAGE}#{at})", found] for ask, found, at in rows])
