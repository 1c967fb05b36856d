-- What the reader asks of a run file, by name (store/reader_query.c finds them).  Tables only, never views: a hostile file
-- can define its own.  A name in braces stands for another query.  A query that scans `allocation` reads it in the order of birth, which is that of its rowid.

-- query: run
SELECT run_id, nnmem_version, pid, ifnull(rank, -1), hostname, command, ring_path, ring_start_ns, start_realtime_ns, ended,
       last_seq, last_ns, peak_rss_bytes, (SELECT value FROM fact WHERE key = 'torch_version'),
       (SELECT value FROM fact WHERE key = 'python_version'), told_end
FROM run WHERE id = 1;

-- query: totals
SELECT ifnull(sum(allocs + frees), 0), ifnull(sum(audit_checks), 0), ifnull(sum(audit_failures), 0),
       (SELECT count(*) FROM step WHERE kind IN (1, 3)),
       (SELECT ifnull(sum(size_bytes), 0) FROM (SELECT max(size_bytes) AS size_bytes FROM tensor WHERE allocation IS NULL GROUP BY address)),
       (SELECT count(*) FROM oom)
FROM device;

-- query: parameter_storages
SELECT max(size_bytes), shape FROM tensor WHERE kind = 1 GROUP BY allocation, address;

-- Tensors known by name on a device, each storage once; external ones count for the CPU.
-- query: named_storages
SELECT t.kind, max(t.size_bytes), t.shape FROM tensor t LEFT JOIN allocation a ON a.id = t.allocation
WHERE ifnull(a.device, 65280) = :device
GROUP BY t.kind, t.allocation, t.address;

-- query: lost
SELECT cause, count FROM lost ORDER BY cause;

-- query: device
SELECT d.id, d.is_main, d.peak_bytes, ifnull(s.step, 0), d.peak_seq, d.allocs, d.frees, d.live_bytes, d.reserved_peak_bytes, d.peak_phase
FROM device d LEFT JOIN stretch s ON s.id = d.peak_stretch
ORDER BY d.id & 255, d.id;

-- query: step
SELECT s.step, s.kind, sd.device, s.start_seq, s.end_seq, s.start_ns, s.end_ns, sd.allocs, sd.frees, sd.alloc_bytes, sd.start_bytes,
       sd.peak_bytes, sd.peak_seq, sd.end_bytes, sd.peak_phase
FROM step s JOIN step_device sd ON sd.step = s.step AND sd.device = :device
ORDER BY s.step;

-- query: phase
SELECT step, phase, device, allocs, alloc_bytes, peak_bytes, end_bytes
FROM step_phase WHERE device = :device
ORDER BY step, phase;

-- query: span
SELECT sp.id, st.step, sp.thread, sp.phase, sp.recompute, m.root_name, sp.start_seq, sp.end_seq, sp.start_ns, sp.end_ns, sp.start_bytes,
       sp.peak_bytes, sp.end_bytes
FROM span sp LEFT JOIN stretch st ON st.id = sp.stretch LEFT JOIN module m ON m.id = sp.module
WHERE sp.start_seq < :end AND (sp.end_seq = 0 OR sp.end_seq >= :start)
ORDER BY sp.id;

-- Which layers the option --layer means, a part of other queries: a path, the root's name, both; with :below all below it too.
-- query: layer
(m.fqn = :layer OR m.root_name || '.' || m.fqn = :layer OR m.root_name = :layer AND (m.fqn = '' OR :below)
 OR :below AND (substr(m.fqn, 1, length(:layer) + 1) = :layer || '.'
                OR substr(m.root_name || '.' || m.fqn, 1, length(:layer) + 1) = :layer || '.'))

-- Which allocations `a` the common filters let through (query_bind_filter()), a part of other queries.  A filter that was not
-- given looks at nothing, so that a damaged value is met by the reader.
-- query: filter
((:min_size = 0 OR a.size_bytes >= :min_size) AND (:phases = 4294967295 OR (:phases >> a.phase) & 1)
 AND (:categories = 4294967295 OR (:categories >> a.category) & 1)
 AND (:step < 0 OR a.stretch IN (SELECT id FROM stretch WHERE step = :step))
 AND (:layers <> 1 OR a.module IN (SELECT id FROM module m WHERE {layer}))
 AND (:layers <> 2 OR a.module NOT IN (SELECT id FROM module)))

-- query: has_layer
SELECT EXISTS (SELECT 1 FROM module m WHERE {layer});

-- query: steps
SELECT count(*), ifnull(max(step), 0), ifnull(sum(step = :step), 0) FROM step;

-- query: live
SELECT id, size_bytes FROM allocation a
WHERE device = :device AND level = 0 AND alloc_seq <= :seq AND (free_seq IS NULL OR free_seq > :seq) AND {filter}
ORDER BY size_bytes DESC, id;

-- Blocks that are alive at an instant from :start to :end.
-- query: lives
SELECT id FROM allocation a
WHERE device = :device AND level = 0 AND alloc_seq <= :end AND (free_seq IS NULL OR free_seq > :start) AND {filter}
ORDER BY id;

-- query: allocation
SELECT a.id, a.size_bytes, a.alloc_seq, ifnull(a.free_seq, 0), a.alloc_ns, ifnull(a.free_ns, 0), s.step, a.thread, a.device, a.level, a.phase,
       ifnull(a.free_phase, 0), a.category, a.rule, a.flags, m.root_name, m.fqn, CASE WHEN t.kind = 2 THEN NULL ELSE t.name END,
       t.state_key, t.shape, t.dtype, f.file || ':' || f.line || ' (' || f.function || ')', op.function,
       ifnull(fs.step, 0), a.address, a.requested_bytes
FROM allocation a LEFT JOIN stretch s ON s.id = a.stretch LEFT JOIN stretch fs ON fs.id = a.free_stretch LEFT JOIN module m ON m.id = a.module LEFT JOIN tensor t ON t.id = a.tensor
LEFT JOIN stack k ON k.id = a.stack LEFT JOIN frame f ON f.id = k.shown LEFT JOIN frame op ON op.id = k.operation
WHERE a.id = :id;

-- query: module
SELECT id, parent, root_name, fqn, class FROM module ORDER BY id;

-- query: layer_peak
SELECT module, forward_peak_bytes, backward_peak_bytes FROM layer_peak WHERE device = :device;

-- Parameters of each module, a storage that several share at the first that named it; external ones count for the CPU.
-- query: layer_params
SELECT t.module, p.size_bytes
FROM (SELECT min(t.id) AS first, max(t.size_bytes) AS size_bytes
      FROM tensor t LEFT JOIN allocation a ON a.id = t.allocation
      WHERE t.kind = 1 AND ifnull(a.device, 65280) = :device
      GROUP BY t.allocation, t.address) p JOIN tensor t ON t.id = p.first;

-- What the calls of modules in a step made: those in which they made something themselves.
-- query: layer_calls
SELECT a.module, m.root_name, m.fqn, a.call, max(a.phase), count(*), sum(a.size_bytes), sum(CASE a.category WHEN 5 THEN a.size_bytes ELSE 0 END),
       sum(CASE WHEN a.alloc_seq <= :peak AND (a.free_seq IS NULL OR a.free_seq > :peak) THEN a.size_bytes ELSE 0 END)
FROM allocation a JOIN module m ON m.id = a.module
WHERE a.device = :device AND a.level = 0 AND a.call > 0 AND a.stretch IN (SELECT id FROM stretch WHERE step = :of_step)
      AND (:layers <> 1 OR {layer})
GROUP BY a.module, a.call
ORDER BY a.module, a.call;

-- query: thread
SELECT id, os_id, flags, name FROM thread ORDER BY id;

-- query: oom
SELECT o.seq, o.ns, s.step, o.thread, o.device, o.phase, m.root_name, m.fqn, o.size_bytes, o.allocated_bytes, o.reserved_bytes,
       f.file || ':' || f.line || ' (' || f.function || ')', op.function
FROM oom o LEFT JOIN stretch s ON s.id = o.stretch LEFT JOIN module m ON m.id = o.module LEFT JOIN stack k ON k.id = o.stack
LEFT JOIN frame f ON f.id = k.shown LEFT JOIN frame op ON op.id = k.operation
ORDER BY o.seq;

-- query: note
SELECT seq, severity, what FROM note ORDER BY id;

-- query: fact
SELECT key, value FROM fact ORDER BY key;

-- The step to show as typical: of the whole training steps after the first the one with the highest peak, else the first.
-- query: steady_step
SELECT s.step, s.kind, s.start_seq, s.end_seq, sd.peak_phase
FROM step s JOIN step_device sd ON sd.step = s.step AND sd.device = :device
WHERE s.kind IN (1, 3)
ORDER BY s.kind = 1 AND s.step > (SELECT min(step) FROM step WHERE kind IN (1, 3)) DESC,
         CASE WHEN s.kind = 1 AND s.step > (SELECT min(step) FROM step WHERE kind IN (1, 3)) THEN sd.peak_bytes ELSE 0 END DESC, s.step
LIMIT 1;

-- query: inference_step
SELECT p.step, s.kind FROM step_phase p JOIN step s ON s.step = p.step
WHERE p.device = :device AND p.phase = 4
ORDER BY p.peak_bytes DESC, p.step
LIMIT 1;

-- query: inference_spans
SELECT sp.start_seq, sp.end_seq FROM span sp JOIN stretch st ON st.id = sp.stretch
WHERE st.step = :step AND sp.phase = 4
ORDER BY sp.start_seq;

-- Blocks of a device that are alive at an instant of [start, end).
-- query: replay
SELECT size_bytes, alloc_seq, ifnull(free_seq, 0), category, module FROM allocation
WHERE device = :device AND level = 0 AND alloc_seq < :end AND (free_seq IS NULL OR free_seq > :start)
ORDER BY id;

-- query: peak_window
SELECT d.peak_seq, st.start_seq, st.end_seq, 1, st.step FROM device d JOIN stretch s ON s.id = d.peak_stretch JOIN step st ON st.step = s.step
WHERE d.id = :device;

-- A step, the instant of its own peak, and whether it is the step of the device's peak.
-- query: step_window
SELECT CASE WHEN sd.peak_seq > 0 THEN sd.peak_seq ELSE max(st.start_seq - 1, 0) END, st.start_seq, st.end_seq,
       EXISTS (SELECT 1 FROM device d JOIN stretch s ON s.id = d.peak_stretch WHERE d.id = :device AND s.step = st.step), st.step
FROM step st JOIN step_device sd ON sd.step = st.step AND sd.device = :device
WHERE st.step = :step;

-- query: growth_nr_steps
SELECT count(*) FROM step WHERE kind IN (1, 3);

-- query: growth_steps
SELECT step, start_seq, end_seq FROM step WHERE kind IN (1, 3) ORDER BY step;

-- Blocks that were born until :end, in any order.
-- query: growth_blocks
SELECT a.size_bytes, a.alloc_seq, ifnull(a.free_seq, 0), a.phase, a.category, a.module, ifnull(k.shown, 0), ifnull(k.operation, 0)
FROM allocation a LEFT JOIN stack k ON k.id = a.stack
WHERE a.device = :device AND a.level = 0 AND a.alloc_seq <= :end AND {filter};

-- query: growth_names
SELECT (SELECT root_name FROM module WHERE id = :module), (SELECT fqn FROM module WHERE id = :module),
       (SELECT file || ':' || line || ' (' || function || ')' FROM frame WHERE id = :line),
       (SELECT function FROM frame WHERE id = :operation);

-- Bytes by stack.  :of 0: alive right after :seq; 1: of all that was ever allocated; 2: never freed.
-- query: stacks
SELECT a.stack, count(*), total(a.size_bytes)
FROM allocation a
WHERE a.device = :device AND a.level = 0 AND (:of <> 0 OR a.alloc_seq <= :seq AND (a.free_seq IS NULL OR a.free_seq > :seq))
      AND (:of <> 2 OR a.free_seq IS NULL) AND {filter}
GROUP BY a.stack
ORDER BY 3 DESC, 1;

-- query: stack
SELECT k.parent, f.id, f.kind, f.file, f.function, f.line, f.internal, f.build_id, coalesce(f.offset, 0)
FROM stack k JOIN frame f ON f.id = k.frame
WHERE k.id = :id;

-- query: has_stacks
SELECT EXISTS (SELECT 1 FROM stack);

-- The time of the last thing that was recorded until :seq.  What CUPTI saw is told late: its own clock says when it was.
-- query: instant
SELECT max(ns) FROM (
	SELECT max(CASE WHEN a.free_seq <= :seq THEN max(a.alloc_ns, a.free_ns) ELSE a.alloc_ns END) AS ns
	FROM allocation a WHERE a.alloc_seq <= :seq AND NOT a.flags & 256
	UNION ALL SELECT max(ns) FROM oom WHERE seq <= :seq
	UNION ALL SELECT last_ns FROM run WHERE last_seq <= :seq
	UNION ALL SELECT 0);

-- What is alive and is no block: memory that calls gave, and where the physical memory among it is mapped.
-- query: segments
SELECT a.id, a.address, a.size_bytes, a.alloc_seq, a.alloc_ns, ifnull(s.step, 0), a.thread, a.phase, a.level, a.caller,
       ifnull(a.free_seq, 0), (a.flags >> 8) & 1
FROM allocation a LEFT JOIN stretch s ON s.id = a.stretch
WHERE a.device = :device AND a.level IN (1, 4)
      AND CASE WHEN a.flags & 256 THEN a.alloc_ns <= :ns AND (a.free_ns IS NULL OR a.free_ns > :ns)
               ELSE a.alloc_seq <= :seq AND (a.free_seq IS NULL OR a.free_seq > :seq) END
ORDER BY a.id;

-- Physical memory that was ever mapped, by its handle.
-- query: handles
SELECT DISTINCT caller FROM allocation WHERE device = :device AND level = 4 ORDER BY caller;

-- query: births
SELECT address, alloc_seq FROM allocation WHERE device = :device AND level = 0;

-- query: objects
SELECT start, end, file FROM object ORDER BY start;

-- query: placed
SELECT id, address, size_bytes, requested_bytes, category FROM allocation
WHERE device = :device AND level = 0 AND alloc_seq <= :seq AND (free_seq IS NULL OR free_seq > :seq)
ORDER BY address, id;

-- query: changes
SELECT id, alloc_seq AS seq, size_bytes, requested_bytes, 1 AS birth FROM allocation WHERE device = :device AND level = 0
UNION ALL
SELECT id, free_seq, size_bytes, requested_bytes, 0 FROM allocation WHERE device = :device AND level = 0 AND free_seq IS NOT NULL
ORDER BY seq, birth
LIMIT :limit;

-- query: driver
WITH seen (size_bytes, alloc_ns, free_ns) AS MATERIALIZED (
	SELECT size_bytes, alloc_ns, free_ns FROM allocation WHERE device = :device AND level = 1 AND flags & 256
)
SELECT d.seq, d.last_seq, d.ns, d.used_bytes, d.total_bytes, d.segment_bytes, d.reserved_bytes, d.first,
       (SELECT total(size_bytes) FROM seen WHERE alloc_ns <= d.ns AND (free_ns IS NULL OR free_ns > d.ns))
FROM driver d WHERE d.device = :device ORDER BY d.seq;

-- With the next OOM of its thread, 0: none.
-- query: refusals
SELECT o.seq, o.ns, s.step, o.thread, o.device, o.phase, m.root_name, m.fqn, o.size_bytes, o.allocated_bytes, o.reserved_bytes,
       f.file || ':' || f.line || ' (' || f.function || ')', op.function,
       ifnull((SELECT min(x.seq) FROM oom x WHERE x.thread = o.thread AND x.device = o.device AND x.seq > o.seq), 0)
FROM refusal o LEFT JOIN stretch s ON s.id = o.stretch LEFT JOIN module m ON m.id = o.module LEFT JOIN stack k ON k.id = o.stack
LEFT JOIN frame f ON f.id = k.shown LEFT JOIN frame op ON op.id = k.operation
ORDER BY o.seq;

-- query: threads_births
SELECT alloc_seq, thread, device FROM allocation WHERE level = 0 AND alloc_seq > :seq ORDER BY id;

-- Memory of the host that calls gave, and managed memory, alive right after :seq.
-- query: level_bytes
SELECT count(*), total(size_bytes) FROM allocation
WHERE level = :level AND alloc_seq <= :seq AND (free_seq IS NULL OR free_seq > :seq);
