"""Photos in, answers out, in order: source -> decode (threads) -> batches -> engine (a thread) -> the caller.

    feeder thread     reads the source, which may be slow, only as far as a bounded window allows
    decode threads    load photos; the one that completes the next photo in order copies it into its batch
    engine thread     keeps up to engine.slots batches on their way, collects them in order
    the caller        pulls the answers; a slow caller stops the engine, and by that the reading

What fails in a thread is raised where the caller pulls, after the answers to all that was read before it. When the
generator ends or is closed, its threads have ended, except a feeder that waits inside the source (a standard input on
which nothing comes): as a daemon thread it ends with the process or when the source answers, and that item is dropped.
"""

from edge_runtime.machine import cpu
from edge_runtime.pipeline.flow import Flow, Settings
from edge_runtime.pipeline.stats import Stats


def classify_items(
    items,
    read,
    input_spec,
    engine,
    batch_size,
    decode_threads=None,
    max_delay_s=None,
    stop=None,
    stats=None,
    live=False,
):
    """Runs items through an engine.

    Without max_delay_s the batches depend on the items alone: each holds batch_size readable photos, and the last one
    what is left. (One with more than 256 unreadable items behind its first photo is closed early.)

    Args:
        items: iterable of Item, Frame, uint8 arrays [height, width, 3] (RGB), or what read takes; read by a thread of
            its own, and only a bounded number ahead.
        read: file name -> uint8 array of input_spec.shape; raises ImageError where the file is no usable photo. Called
            by the decode threads.
        input_spec: edge_runtime.photos.spec.InputSpec of the network.
        engine: an open Engine; others may use it meanwhile.
        batch_size: photos per call of the engine, at most engine.max_batch.
        decode_threads: how many threads decode; None: as many as the processor has cores.
        max_delay_s: a batch goes to the engine, full or not, this long after its first photo was read, or as soon
            after that as the engine is free; None for full batches only.
        stop: threading.Event; once it is set no more is read, what was read is answered, and the answers end.
        stats: a Stats to add to, of this run alone.
        live: the items get old, as a camera's frames do: while the engine works on one batch at most the next
            batch is read (else two batches and a photo per decoding thread), and one batch is on its way, not
            engine.slots.

    Yields:
        one Answer per item, in the order of items. If the engine fails on a batch, the photo at fault is found and
        gets an error; the others are answered.

    Raises:
        EngineLost: the engine fails on a plain grey picture too.
        OutOfMemory: there is not enough memory for a batch, or to decode or classify one photo alone.
        Anything that items raise, and PicnicErrors of read.
        RuntimeError: read raised another exception than ImageError, a bug; names the item, chained to that exception.
    """
    if not 1 <= batch_size <= engine.max_batch:
        raise ValueError(f"a batch of {batch_size}; {engine.name} takes 1 to {engine.max_batch}")
    stats = stats if stats is not None else Stats()
    threads = decode_threads or cpu.core_count()
    flow = Flow(Settings(items, read, input_spec, engine, batch_size, threads, max_delay_s, stop, stats, live))
    try:
        flow.start()
        for batch in iter(flow.next_finished, None):
            for answer in batch.answers():
                stats.add(answered=1)
                yield answer
    finally:
        flow.close()
