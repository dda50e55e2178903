"""The values that the README quotes."""

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
            f"- **{share(retention(ours, EXIT))} of the score with {EXIT} of {depth} layers.** The trained checkpoint "
            f"in `models/` scores {at_full_width(ours, depth)} with {depth} layers and {at_full_width(ours, EXIT)} "
            f"with {EXIT} (STS-B, Spearman x 100). Before its training it scored {at_full_width(base, depth)} and "
            f"{at_full_width(base, EXIT)}.",
            f"- **{times(best.ratio(best.full))} the throughput of the fastest other library of equal score.** Both "
            f"run all layers of the checkpoint as it was before its training. m2d-export scores {at_depth} with it, "
            f"and the other library {of_peer}. With exit {EXIT} of the trained checkpoint, m2d-export scores {at_exit} "
            f"and has {times(best.ratio(best.exit))} the throughput. m2d-export ran {how}: the first type is that of "
            f"the weights, the second is the type that floats are multiplied in. The other library is {best.peer}. "
            f"Processor: {processor(found)}.",
            f"- **{built['graphs']} exits take {built['all_graphs_over_the_deepest_alone']:.3f}x the space of the "
            "deepest one.** They share one file of weights.",
        ]
    )


def results() -> str:
    """Six questions, each with its figure and a link to its section."""
    ours, base = scores_of(SHIPPED), scores_of(UNTOUCHED)
    depth = axes_of(ours)[0][0]
    short, single = (fastest(result("peers.json"), workload) for workload in ("short", "single"))
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
            "How good are exits that `distil` makes in 10 minutes, without labels?",
            _distilled(),
            "exits-without-labels",
        ),
        (
            "How many texts per second, compared with the fastest other library?",
            f"{times(short.ratio(short.full))} at full depth, {times(short.ratio(short.exit))} at exit {EXIT}",
            "other-libraries",
        ),
        (
            f"How long does one text take, with all {depth} layers?",
            f"{latency[single.full]} (fastest other library: {latency[single.peer]})",
            "other-libraries",
        ),
        (
            "Without graded pairs, can `bench` still tell which cells are better?",
            f"yes, mostly: rank correlation {agreement['rank_correlation']['spearman']:.3f}",
            "agreement-without-labels",
        ),
        (
            "What does a build cost?",
            f"{built['seconds']:.0f} s; all exits take {size:.3f}x the space of the deepest",
            "builds",
        ),
    ]
    return plain_table(["question", "result"], [[f"[{ask}]({PAGE}#{at})", found] for ask, found, at in rows])


def _distilled() -> str:
    """What ``distil`` makes of an exit, with BM25 beside it."""
    found = result("distil.json")
    before, after = (found["checkpoints"][name]["exits"][str(EXIT)] for name in ("untouched", "10 minutes"))
    width = next(iter(after))
    (old, old_share), (new, new_share) = ((one[width]["sts"]["test"], one[width]["share"]) for one in (before, after))
    return (
        f"exit {EXIT}: {score(new)} on STS-B (before: {score(old)}); in retrieval, {new_share:.2f} of what all layers "
        f"find (before: {old_share:.2f}; BM25: {found['bm25']['share']:.2f})"
    )
