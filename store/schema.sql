-- The run file: one traced process, as nnmem-record writes it (store/writer_rows.c) and nnmem-report reads it (store/reader.c).
--
-- Tables may change between schema versions (PRAGMA user_version); the views at the end are the public contract and keep
-- their names and columns.  Codes (phase, category, ...) are those of store/names.h; table `name` spells them.
-- Byte columns are exact bytes.  seq: position of the record in the run, the order of truth.  ns: nanoseconds since the
-- recording began (run.start_realtime_ns), for display.  Of one (device, seq), "after" the event is meant throughout.
--
-- Everything that a program may do to the file between two commits is done in one transaction: the tables, `commit_state`
-- (from which a dead recorder's work is taken up again) and run.last_seq always belong together.

PRAGMA application_id = 1852730733; -- "nnmm"
PRAGMA user_version = 1;

CREATE TABLE run (
	id INTEGER PRIMARY KEY CHECK (id = 1),
	run_id TEXT NOT NULL,           -- shared by the files of one run
	nnmem_version TEXT NOT NULL,
	pid INTEGER NOT NULL,
	rank INTEGER,                   -- of a distributed run; NULL: none
	hostname TEXT,
	command TEXT,                   -- joined by blanks
	ring_path TEXT,                 -- where unread records may still lie
	ring_start_ns INTEGER NOT NULL, -- CLOCK_MONOTONIC at the ring's start: ns columns count from here; proves the ring is ours
	start_realtime_ns INTEGER NOT NULL,
	ended TEXT NOT NULL,            -- `running` until the file is closed, then `exit N`, `signal N`, `exec`, `killed`
	told_end TEXT,                  -- `exit N` or `exec` as the program announced it; NULL: it did not (yet)
	last_seq INTEGER NOT NULL,      -- last record that is in the tables
	last_ns INTEGER NOT NULL,
	peak_rss_bytes INTEGER NOT NULL -- of the process, 0 not known
);

-- Facts about the run that the program told: torch_version, python_version, ...
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- Spelling of codes.  list: phase, level, category, category_rule, step_kind, frame_kind, severity,
-- tensor_kind.
CREATE TABLE name (list TEXT NOT NULL, code INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (list, code)) WITHOUT ROWID;

-- Records that are not in this file, by cause (store/names.h, lost_name).
CREATE TABLE lost (cause TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE thread (
	id INTEGER PRIMARY KEY,         -- the hook's number, from 1
	os_id INTEGER NOT NULL,
	flags INTEGER NOT NULL,         -- RECORD_F_PYTHON, RECORD_F_AUTOGRAD
	name TEXT NOT NULL
);

CREATE TABLE device (
	id INTEGER PRIMARY KEY,         -- as PyTorch packs it: type + 256 * index
	name TEXT NOT NULL,             -- `cpu`, `cuda:0`
	is_main INTEGER NOT NULL,       -- the device that run totals speak of: the first CUDA device used, else cpu
	allocs INTEGER NOT NULL,
	frees INTEGER NOT NULL,
	live_bytes INTEGER NOT NULL,    -- after last_seq
	peak_bytes INTEGER NOT NULL,
	peak_seq INTEGER NOT NULL,      -- of the event that first reached it
	peak_stretch INTEGER NOT NULL,
	peak_phase INTEGER NOT NULL,
	reserved_peak_bytes INTEGER NOT NULL, -- as PyTorch reported; 0 none
	audit_checks INTEGER NOT NULL,  -- running totals compared with PyTorch's
	audit_failures INTEGER NOT NULL,
	unknown_frees INTEGER NOT NULL  -- of addresses that were not alive
);

CREATE TABLE module (
	id INTEGER PRIMARY KEY,
	root INTEGER NOT NULL,          -- id of its root, its own for a root
	parent INTEGER NOT NULL,        -- id of the module one level up, 0 for a root
	fqn TEXT NOT NULL,              -- path below the root, '' the root itself
	class TEXT NOT NULL,
	root_name TEXT NOT NULL         -- `Net`, `Net#2`
);

CREATE TABLE optimizer (id INTEGER PRIMARY KEY, class TEXT NOT NULL);

-- Tensors known by name.
CREATE TABLE tensor (
	id INTEGER PRIMARY KEY,
	kind INTEGER NOT NULL,          -- enum record_tensor
	module INTEGER NOT NULL,        -- 0 none
	optimizer INTEGER NOT NULL,     -- 0 none
	name TEXT NOT NULL,             -- path below the root
	dtype TEXT NOT NULL,
	shape TEXT NOT NULL,            -- `32,3,3,3`
	state_key TEXT,                 -- optimizer state: `momentum_buffer`, `exp_avg`, ...
	address INTEGER NOT NULL,
	size_bytes INTEGER NOT NULL,    -- of its storage
	allocation INTEGER              -- the life that holds it; NULL: PyTorch did not allocate it (external)
);

-- What stacks are made of: places in Python source, operations, places in compiled code.
CREATE TABLE frame (
	id INTEGER PRIMARY KEY,
	kind INTEGER NOT NULL,          -- enum frame_kind
	file TEXT NOT NULL,             -- source file; of compiled code, where its source is not known, the object's
	function TEXT NOT NULL,         -- operation: an operator (`aten::conv2d`) or a node's class (`ConvolutionBackward0`)
	line INTEGER NOT NULL,          -- 0 not known
	internal INTEGER NOT NULL,      -- 1: PyTorch's, an installed package's, Python's own or ours, not the user's
	build_id TEXT,                  -- compiled code: of the object, in hexadecimal digits; '' it has none
	offset INTEGER                  -- compiled code: address in the object as it was linked (what addr2line takes)
);

-- Stacks: a prefix tree.  Innermost last: frames of Python, at most one operation, frames of compiled code.
CREATE TABLE stack (
	id INTEGER PRIMARY KEY,
	parent INTEGER NOT NULL,        -- the stack that called it, 0 none
	frame INTEGER NOT NULL,         -- innermost
	shown INTEGER NOT NULL,         -- frame to show for it: the innermost of the user's own code, else of Python; 0 none
	operation INTEGER NOT NULL      -- frame of its operation, 0 none
);

-- A stretch falls into one step as a whole; which one is decided late (store/tagger_step.c), so rows name stretches.
CREATE TABLE stretch (id INTEGER PRIMARY KEY, step INTEGER NOT NULL);

CREATE TABLE step (
	step INTEGER PRIMARY KEY,
	kind INTEGER NOT NULL,
	closed INTEGER NOT NULL,
	start_seq INTEGER NOT NULL,
	end_seq INTEGER NOT NULL,       -- last record in it
	start_ns INTEGER NOT NULL,
	end_ns INTEGER NOT NULL
);

CREATE TABLE step_device (
	step INTEGER NOT NULL,
	device INTEGER NOT NULL,
	allocs INTEGER NOT NULL,
	frees INTEGER NOT NULL,
	alloc_bytes INTEGER NOT NULL,
	start_bytes INTEGER NOT NULL,
	peak_bytes INTEGER NOT NULL,
	peak_seq INTEGER NOT NULL,      -- 0: the step began at its peak
	peak_phase INTEGER NOT NULL,
	end_bytes INTEGER NOT NULL,
	PRIMARY KEY (step, device)
) WITHOUT ROWID;

CREATE TABLE step_phase (
	step INTEGER NOT NULL,
	device INTEGER NOT NULL,
	phase INTEGER NOT NULL,
	allocs INTEGER NOT NULL,
	alloc_bytes INTEGER NOT NULL,
	peak_bytes INTEGER NOT NULL,
	end_bytes INTEGER NOT NULL,
	PRIMARY KEY (step, device, phase)
) WITHOUT ROWID;

-- One contiguous stay of one thread in one phase; bytes are of the main device.
CREATE TABLE span (
	id INTEGER PRIMARY KEY,
	stretch INTEGER NOT NULL,       -- in which it began
	thread INTEGER NOT NULL,
	module INTEGER NOT NULL,        -- root of a forward, 0 none
	optimizer INTEGER NOT NULL,
	phase INTEGER NOT NULL,
	recompute INTEGER NOT NULL,
	start_seq INTEGER NOT NULL,
	end_seq INTEGER NOT NULL,       -- 0 open
	start_ns INTEGER NOT NULL,
	end_ns INTEGER NOT NULL,
	start_bytes INTEGER NOT NULL,
	peak_bytes INTEGER NOT NULL,
	end_bytes INTEGER NOT NULL
);

-- One life of one block.  A life that is still open has free_seq NULL and a provisional category.
CREATE TABLE allocation (
	id INTEGER PRIMARY KEY,         -- in order of birth
	device INTEGER NOT NULL,
	level INTEGER NOT NULL,
	address INTEGER NOT NULL,
	size_bytes INTEGER NOT NULL,
	alloc_seq INTEGER NOT NULL,
	alloc_ns INTEGER NOT NULL,
	free_seq INTEGER,
	free_ns INTEGER,
	thread INTEGER NOT NULL,
	free_thread INTEGER NOT NULL,
	stretch INTEGER NOT NULL,
	free_stretch INTEGER NOT NULL,
	phase INTEGER NOT NULL,
	free_phase INTEGER,
	category INTEGER NOT NULL,
	rule INTEGER NOT NULL,          -- why this category
	module INTEGER NOT NULL,        -- 0 none
	tensor INTEGER NOT NULL,        -- 0 none
	stack INTEGER NOT NULL,         -- of what was born in backward: that of the forward; 0 not known
	flags INTEGER NOT NULL,         -- 1 provisional, 2 recompute, 4 shared, 8 free lost, 16 seen_forward, 32 named_input,
	                                -- 64 seed, 128 before_step, 256 seen by CUPTI alone, 512 into_step
	episode INTEGER NOT NULL,       -- for taking the work up again
	call INTEGER NOT NULL DEFAULT 0, -- which call of its module: module calls are counted over the run, from 1; 0: born outside
	                                -- one, or in backward, where only the module is known
	requested_bytes INTEGER NOT NULL DEFAULT 0, -- of a block's size_bytes: what was asked for, before rounding; 0: not known
	caller INTEGER NOT NULL DEFAULT 0 -- of what is no block: an address in the code that called for it, in an object; 0 not known;
	                                -- of level mapping: the address (a handle) of the segment that can be used there
);

-- Pieces of code that called for memory: files mapped into the program, by address.
CREATE TABLE object (
	start INTEGER PRIMARY KEY,
	end INTEGER NOT NULL,           -- first address behind it
	file TEXT NOT NULL              -- '' not known
);

-- What the driver said of a device (cudaMemGetInfo), one row for as long as nothing changed.
CREATE TABLE driver (
	device INTEGER NOT NULL,
	seq INTEGER NOT NULL,
	last_seq INTEGER NOT NULL,      -- of the last answer that was the same
	ns INTEGER NOT NULL,
	used_bytes INTEGER NOT NULL,    -- by anybody
	total_bytes INTEGER NOT NULL,   -- that the device has
	segment_bytes INTEGER NOT NULL, -- of level segment, that calls told of, alive then
	reserved_bytes INTEGER NOT NULL, -- by PyTorch's allocator, as it last said
	first INTEGER NOT NULL,         -- 1: before the program was given any memory of the device
	PRIMARY KEY (device, seq)
) WITHOUT ROWID;

-- Every layer's high-water marks in the step in which the device had its peak.
CREATE TABLE layer_peak (
	device INTEGER NOT NULL,
	module INTEGER NOT NULL,
	forward_peak_bytes INTEGER NOT NULL,
	backward_peak_bytes INTEGER NOT NULL,
	PRIMARY KEY (device, module)
) WITHOUT ROWID;

-- The process as the operating system sees it, a few times a second.
CREATE TABLE sample (ns INTEGER NOT NULL, rss_bytes INTEGER NOT NULL, peak_rss_bytes INTEGER NOT NULL);

CREATE TABLE oom (
	seq INTEGER PRIMARY KEY, ns INTEGER NOT NULL, stretch INTEGER NOT NULL, thread INTEGER NOT NULL, module INTEGER NOT NULL,
	device INTEGER NOT NULL, phase INTEGER NOT NULL, size_bytes INTEGER NOT NULL, allocated_bytes INTEGER NOT NULL,
	reserved_bytes INTEGER NOT NULL, stack INTEGER NOT NULL
);

-- Calls for memory of a device that were refused for lack of it; an oom of the thread follows, or a second call that was not.
CREATE TABLE refusal (
	seq INTEGER PRIMARY KEY, ns INTEGER NOT NULL, stretch INTEGER NOT NULL, thread INTEGER NOT NULL, module INTEGER NOT NULL,
	device INTEGER NOT NULL, phase INTEGER NOT NULL, size_bytes INTEGER NOT NULL, allocated_bytes INTEGER NOT NULL,
	reserved_bytes INTEGER NOT NULL, stack INTEGER NOT NULL
);

CREATE TABLE note (id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, severity INTEGER NOT NULL, what TEXT NOT NULL);

-- The tagger as of run.last_seq (tagger_save()); removed when the run is closed.
CREATE TABLE commit_state (id INTEGER PRIMARY KEY CHECK (id = 1), tagger BLOB NOT NULL);

-- ---------------------------------------------------------------- views: the public contract

CREATE VIEW v_device AS
SELECT d.name AS device, d.peak_bytes, s.step AS peak_step, n.name AS peak_phase, d.peak_seq, d.allocs, d.frees,
       d.live_bytes AS live_at_end_bytes
FROM device d LEFT JOIN stretch s ON s.id = d.peak_stretch LEFT JOIN name n ON n.list = 'phase' AND n.code = d.peak_phase;

CREATE VIEW v_run AS
SELECT r.run_id, r.pid, r.rank, (SELECT value FROM fact WHERE key = 'torch_version') AS torch_version,
       (SELECT value FROM fact WHERE key = 'python_version') AS python_version, r.command, r.ended,
       (SELECT ifnull(sum(allocs + frees), 0) FROM device) AS events, (SELECT ifnull(sum(count), 0) FROM lost) AS lost,
       (SELECT ifnull(sum(audit_checks), 0) FROM device) AS audit_checks,
       (SELECT ifnull(sum(audit_failures), 0) FROM device) AS audit_failures,
       (SELECT count(*) FROM step WHERE kind IN (1, 3)) AS steps,
       (SELECT ifnull(sum(size_bytes), 0) FROM (SELECT max(size_bytes) AS size_bytes FROM tensor WHERE kind = 1
        GROUP BY allocation, address)) AS params_bytes,
       d.device AS peak_device, d.peak_bytes, d.peak_step, d.peak_phase, d.peak_seq
FROM run r LEFT JOIN v_device d ON d.device = (SELECT name FROM device WHERE is_main);

CREATE VIEW v_step AS
SELECT s.step, d.name AS device, k.name AS kind, s.start_ns, s.end_ns, sd.allocs, sd.frees, sd.alloc_bytes, sd.start_bytes,
       sd.peak_bytes, sd.end_bytes, NULL AS template_step
FROM step s JOIN step_device sd ON sd.step = s.step JOIN device d ON d.id = sd.device
JOIN name k ON k.list = 'step_kind' AND k.code = s.kind;

CREATE VIEW v_phase AS
SELECT p.step, n.name AS phase, d.name AS device, p.allocs, p.alloc_bytes, p.peak_bytes, p.end_bytes
FROM step_phase p JOIN device d ON d.id = p.device JOIN name n ON n.list = 'phase' AND n.code = p.phase;

CREATE VIEW v_allocation AS
SELECT a.id, d.name AS device, l.name AS level, a.size_bytes, nullif(a.requested_bytes, 0) AS requested_bytes, a.alloc_seq, a.free_seq, a.alloc_ns,
       a.free_ns, 1 AS time_exact, a.thread, NULL AS stream, p.name AS phase, fp.name AS free_phase, (a.flags >> 1) & 1 AS recompute,
       s.step, m.root_name AS root, m.fqn AS layer, c.name AS category, cr.name AS category_rule,
       CASE WHEN t.kind = 2 THEN NULL ELSE t.name END AS parameter, t.state_key, t.shape, t.dtype, o.function AS operation,
       f.file || ':' || f.line || ' (' || f.function || ')' AS line,
       CASE WHEN a.level = 0 THEN 'report' WHEN a.flags & 256 THEN 'cupti' ELSE 'call' END AS source
FROM allocation a
LEFT JOIN device d ON d.id = a.device LEFT JOIN stretch s ON s.id = a.stretch LEFT JOIN module m ON m.id = a.module
LEFT JOIN tensor t ON t.id = a.tensor LEFT JOIN stack k ON k.id = a.stack LEFT JOIN frame f ON f.id = k.shown
LEFT JOIN frame o ON o.id = k.operation
LEFT JOIN name l ON l.list = 'level' AND l.code = a.level
LEFT JOIN name p ON p.list = 'phase' AND p.code = a.phase LEFT JOIN name fp ON fp.list = 'phase' AND fp.code = a.free_phase
LEFT JOIN name c ON c.list = 'category' AND c.code = a.category
LEFT JOIN name cr ON cr.list = 'category_rule' AND cr.code = a.rule;

CREATE VIEW v_peak AS
SELECT v.* FROM v_allocation v JOIN v_device d ON d.device = v.device
WHERE v.level = 'block' AND v.alloc_seq <= d.peak_seq AND (v.free_seq IS NULL OR v.free_seq > d.peak_seq);

-- Own bytes of each layer, without those of layers below it; the row with NULL names is what no layer owns.
-- params_bytes: every storage once, at the first module that named it (one that PyTorch did not allocate counts for cpu).
-- gradient, optimizer_state, saved and temporary bytes: the most that was alive at one time in the step of the device's
-- peak.  forward and backward peaks are of the whole device while the layer, those below included, was at work in that step.
CREATE VIEW v_layer AS
WITH owner (id, root, layer, class) AS (
	SELECT id, root_name, fqn, class FROM module UNION ALL SELECT 0, NULL, NULL, NULL
), block (device, owner, part, size_bytes, alloc_seq, free_seq, end_seq, at_peak) AS (
	SELECT a.device, ifnull(m.id, 0),
	       CASE a.category WHEN 3 THEN 1 WHEN 4 THEN 2 WHEN 5 THEN 3 WHEN 7 THEN 4 WHEN 8 THEN 4 WHEN 9 THEN 4 WHEN 10 THEN 4 ELSE 0 END,
	       a.size_bytes, max(a.alloc_seq, st.start_seq - 1), a.free_seq, st.end_seq,
	       a.alloc_seq <= d.peak_seq AND (a.free_seq IS NULL OR a.free_seq > d.peak_seq)
	FROM device d JOIN stretch ps ON ps.id = d.peak_stretch JOIN step st ON st.step = ps.step
	JOIN allocation a ON a.device = d.id AND a.level = 0 AND a.alloc_seq <= st.end_seq
	     AND (a.free_seq IS NULL OR a.free_seq >= st.start_seq)
	LEFT JOIN module m ON m.id = a.module
), change (device, owner, part, seq, bytes) AS (
	SELECT device, owner, part, alloc_seq, size_bytes FROM block WHERE part > 0
	UNION ALL SELECT device, owner, part, free_seq, -size_bytes FROM block WHERE part > 0 AND free_seq <= end_seq
), moment (device, owner, part, bytes) AS (
	SELECT device, owner, part, sum(bytes) OVER (PARTITION BY device, owner, part ORDER BY seq, bytes ROWS UNBOUNDED PRECEDING)
	FROM change
), most (device, owner, gradient, optimizer_state, saved, temporary) AS (
	SELECT device, owner, max(bytes) FILTER (WHERE part = 1), max(bytes) FILTER (WHERE part = 2),
	       max(bytes) FILTER (WHERE part = 3), max(bytes) FILTER (WHERE part = 4)
	FROM moment GROUP BY device, owner
), live (device, owner, bytes) AS (
	SELECT device, owner, sum(size_bytes) FROM block WHERE at_peak GROUP BY device, owner
), storage (device, tensor, size_bytes) AS (
	SELECT ifnull(a.device, 65280), min(t.id), max(t.size_bytes)
	FROM tensor t LEFT JOIN allocation a ON a.id = t.allocation
	WHERE t.kind = 1 GROUP BY t.allocation, t.address
), param (device, owner, bytes) AS (
	SELECT p.device, ifnull(m.id, 0), sum(p.size_bytes)
	FROM storage p JOIN tensor t ON t.id = p.tensor LEFT JOIN module m ON m.id = t.module
	GROUP BY 1, 2
)
SELECT o.root, o.layer, d.name AS device, o.class, ifnull(param.bytes, 0) AS params_bytes,
       ifnull(most.gradient, 0) AS gradient_bytes, ifnull(most.optimizer_state, 0) AS optimizer_state_bytes,
       ifnull(most.saved, 0) AS saved_bytes, ifnull(most.temporary, 0) AS temporary_bytes,
       ifnull(lp.forward_peak_bytes, 0) AS forward_peak_bytes, ifnull(lp.backward_peak_bytes, 0) AS backward_peak_bytes,
       ifnull(live.bytes, 0) AS live_at_peak_bytes
FROM owner o JOIN device d
LEFT JOIN param ON param.device = d.id AND param.owner = o.id
LEFT JOIN most ON most.device = d.id AND most.owner = o.id
LEFT JOIN live ON live.device = d.id AND live.owner = o.id
LEFT JOIN layer_peak lp ON lp.device = d.id AND lp.module = o.id;

CREATE VIEW v_external AS
SELECT t.address AS storage, max(t.size_bytes) AS size_bytes, m.fqn AS layer, t.name AS parameter
FROM tensor t LEFT JOIN module m ON m.id = t.module WHERE t.allocation IS NULL AND t.size_bytes > 0 GROUP BY t.address;

CREATE VIEW v_oom AS
SELECT o.seq, o.ns, s.step, o.thread, d.name AS device, p.name AS phase, m.root_name AS root, m.fqn AS layer, f.function AS operation,
       l.file || ':' || l.line || ' (' || l.function || ')' AS line, o.size_bytes, o.allocated_bytes, o.reserved_bytes
FROM oom o LEFT JOIN stretch s ON s.id = o.stretch LEFT JOIN module m ON m.id = o.module LEFT JOIN device d ON d.id = o.device
LEFT JOIN name p ON p.list = 'phase' AND p.code = o.phase LEFT JOIN stack k ON k.id = o.stack
LEFT JOIN frame f ON f.id = k.operation LEFT JOIN frame l ON l.id = k.shown;

-- used_bytes: of the device, by anybody; segment_bytes: what the program was seen to take then.
CREATE VIEW v_driver AS
SELECT d.name AS device, r.seq, r.last_seq, r.ns, r.used_bytes, r.total_bytes, r.segment_bytes, r.reserved_bytes, r.first
FROM driver r JOIN device d ON d.id = r.device;

CREATE VIEW v_lost AS SELECT cause, count FROM lost;

CREATE VIEW v_note AS
SELECT n.seq, s.name AS severity, n.what FROM note n LEFT JOIN name s ON s.list = 'severity' AND s.code = n.severity ORDER BY n.id;
