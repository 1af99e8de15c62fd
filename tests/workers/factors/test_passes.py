from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.passes import passes, shard_count, shard_of


def test_shards_cover_all_batches_once() -> None:
    for shards, batches in ((1, 1), (3, 7), (4, 4)):
        cut = [shard_of(index, shards, batches) for index in range(shards)]
        assert [batch for shard in cut for batch in shard] == list(range(batches))
        assert {len(shard) for shard in cut} <= {batches // shards, batches // shards + 1}


def test_a_shard_has_enough_tokens_to_be_worth_its_sums() -> None:
    assert [shard_count(tokens, 100, "cpu") for tokens in (1, 4096, 8191, 8192)] == [1, 1, 1, 2]
    assert shard_count(10**9, 5, "cpu") == 5
    assert shard_count(200_000, 100, "cuda") == 1


def test_passes_fill_the_memory_in_order() -> None:
    shapes = [
        MatrixShape(name=str(i), out_features=out, in_features=8, layer=i, kind="m")
        for i, out in enumerate((4, 4, 8, 2, 2, 4))
    ]
    sizes = [2 * 8 * min(8, out) ** 2 for out in (4, 4, 8, 2, 2, 4)]
    assert sizes == [256, 256, 1024, 64, 64, 256]
    assert [[m.name for m in group] for group in passes(shapes, 512)] == [
        ["0", "1"],
        ["2"],
        ["3", "4", "5"],
    ]
    assert len(passes(shapes, 10**6)) == 1
