"""The values that the README quotes."""

from benchmarks.tables import EXIT, result, times
from benchmarks.tables.distil import UNTOUCHED, share_of
from benchmarks.tables.peers import AT_EXIT, fastest, processor
from benchmarks.tables.shipped import BEFORE, FILE, SHIPPED, depth_of, full_width, sts
from m2d_export.report.formatting import milliseconds, plain_table, score

PAGE = "benchmarks/README.md"
TEN_MINUTES = "10 minutes"  # a checkpoint in distil.json
SHALLOW = (1, 2, 3)  # exits whose queries the README counts in the base's own index


def headline() -> str:
    """Queries in an index that is kept, as a table; then three facts as a list."""
    untouched, ours = full_width(UNTOUCHED, EXIT), full_width(SHIPPED, EXIT)
    depth, lexical = depth_of(UNTOUCHED), share_of(result(FILE)["bm25"]["share"])
    found, built = result("peers.json"), result("build_cost.json")
    best = fastest(found, "short")
    ours_named = (name.removeprefix("m2d-export ").removesuffix(f" {AT_EXIT}") for name in (best.exit, best.full))
    how = " and ".join(dict.fromkeys(ours_named))
    at_exit, at_depth, of_peer = (score(best.rows[name]["score"]) for name in (best.exit, best.full, best.peer))
    return "\n".join(
        [
            "**Keep your index, and encode queries with fewer layers.** The index has the vectors of all-MiniLM-L6-v2. "
            f"The table has what queries find in it, as a share of what all {depth} layers find:",
            "",
            _kept_index(),
            "",
            "The second column of shares is `m2d-export distil` on two cores. The third is a longer training of the "
            "same kind, on a GPU. The last is `models/minilm-l6-2d`, which learned STS-B after it. In your own system, "
            "use `distil --keep-space`.",
            "",
            f"- **{EXIT} layers score {score(sts(ours))} on STS-B.** The {depth} layers of the untouched checkpoint "
            f"score {score(sts(full_width(UNTOUCHED, depth)))} (Spearman x 100). The {EXIT} layers are those of "
            f"`models/minilm-l6-2d`; untouched, they score {score(sts(untouched))}. In retrieval with an index of "
            f"their own, they find {share_of(ours['share'])} of what all untouched layers find; untouched, they find "
            f"{share_of(untouched['share'])} of it. BM25 finds {lexical}.",
            f"- **{times(best.ratio(best.full))} the throughput of the fastest other library of equal score.** Both "
            f"run all layers of the untouched checkpoint. m2d-export scores {at_depth} with it, and the other library "
            f"{of_peer}. With exit {EXIT} of the trained checkpoint, m2d-export scores {at_exit} and has "
            f"{times(best.ratio(best.exit))} the throughput. m2d-export ran {how}: the first type is that of the "
            f"weights, the second is the type that floats are multiplied in. The other library is {best.peer}. "
            f"Processor: {processor(found)}.",
            f"- **{built['graphs']} exits take {built['all_graphs_over_the_deepest_alone']:.3f}x the space of the "
            "deepest one.** They share one file of weights.",
        ]
    )


def _kept_index() -> str:
    """What queries by one to three layers find in the untouched checkpoint's own index."""
    quick = result("distil.json")["checkpoints"][TEN_MINUTES]["exits"]
    width = str(result(FILE)["base"]["width"])
    columns = {
        "untouched": lambda layer: full_width(UNTOUCHED, layer),
        "10 minutes without labels": lambda layer: quick[str(layer)][width],
        "3.1 million texts without labels": lambda layer: full_width(BEFORE, layer),
        "then scored pairs": lambda layer: full_width(SHIPPED, layer),
    }
    rows = [
        [
            f"{layer} layer{'s' if layer > 1 else ''}",
            *(share_of(cell(layer)["base_index"]) for cell in columns.values()),
        ]
        for layer in SHALLOW
    ]
    return plain_table(["queries by", *columns], rows)


def results() -> str:
    """Six questions, each with its figure and a link to its section."""
    short, single = (fastest(result("peers.json"), workload) for workload in ("short", "single"))
    agreement, built = result("agreement_vs_score.json"), result("build_cost.json")
    depth = depth_of(UNTOUCHED)
    size = built["all_graphs_over_the_deepest_alone"]
    latency = {name: milliseconds(single.rows[name]["single_p50_ms"]) for name in (single.full, single.peer)}
    rows = [
        (
            "How good is an exit of the shipped checkpoint?",
            f"exit {EXIT}: {score(sts(full_width(SHIPPED, EXIT)))} on STS-B (untouched: "
            f"{score(sts(full_width(UNTOUCHED, EXIT)))}, all layers {score(sts(full_width(UNTOUCHED, depth)))})",
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
    before, after = (found["checkpoints"][name]["exits"][str(EXIT)] for name in (UNTOUCHED, TEN_MINUTES))
    width = next(iter(after))
    (old, old_share), (new, new_share) = ((one[width]["sts"]["test"], one[width]["share"]) for one in (before, after))
    return (
        f"exit {EXIT}: {score(new)} on STS-B (before: {score(old)}); in retrieval, {new_share:.2f} of what all layers "
        f"find (before: {old_share:.2f}; BM25: {found['bm25']['share']:.2f})"
    )
