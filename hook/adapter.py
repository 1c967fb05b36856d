# The Python adapter: tells the hook which modules and optimizers are at work, and the names of their tensors.
#
# Compiled into the library and run once in the main interpreter, in a namespace of its own that nobody imports, as file
# "<nnmem>" (python.c).  The namespace already holds own_code, what this file was compiled to, and the C functions enter,
# leave, push, in_module, in_backward, current_root, current_module, enter_again, step_open, step_push, step_close, is_on,
# scaler_update, remember, identify, define, input_storage, gradient_at, check_stacks, note and limit; python.c says what they do.
#
# It is a guest in somebody else's program:
# - It holds no reference to a module, parameter or optimizer: only numbers, names and weak references.
# - It makes no tensor, calls no operator, and reads attributes of tensors with __torch_function__ switched off.
# - No error of its own reaches the program: each is caught and noted.  KeyboardInterrupt and its kind, and what a signal
#   handler of the program raises while we run, are not ours and pass; python.c knows what is open, so they leave nothing unbalanced, and what was sent is remembered after it was sent.
# - Dynamo may inline the wrappers: each begins with the question that Dynamo answers with True, and then does what
#   PyTorch's own function does.  It never compiles a frame of ours: it is told to step over them to the next one, which
#   is the one that it would have compiled without us.
#
# Ids.  A module is known by an id that stands for (root name, path below the root, class).  When a model dies and another
# of its kind takes its name, or a loss module is made anew in every step, the new one takes over the ids: what is sent
# grows with the number of different names, not with the length of the run.
#
# The GIL may change hands between any two lines: dictionaries are used by single operations, and a definition that is
# sent twice does no harm.
import _signal
import functools
import itertools
import sys
import weakref

if "t" in getattr(sys, "abiflags", ""):
    raise RuntimeError("free-threaded interpreters are not supported")

torch = sys.modules["torch"]
Module = sys.modules["torch.nn.modules.module"].Module
Optimizer = sys.modules["torch.optim.optimizer"].Optimizer
GradScaler = getattr(sys.modules.get("torch.amp.grad_scaler") or sys.modules.get("torch.cuda.amp.grad_scaler"), "GradScaler", None)
checkpoints = None  # torch.utils.checkpoint, once it was wrapped
Tensor = torch.Tensor
Parameter = sys.modules["torch.nn.parameter"].Parameter
TensorBase = getattr(torch._C, "TensorBase", None) or torch._C._TensorBase
DisableTorchFunction = torch._C.DisableTorchFunction
data_ptr = TensorBase.data_ptr
strided = torch.strided
no_dispatch = getattr(Tensor, "__torch_dispatch__", None)
tells_graph_task = hasattr(torch._C, "_current_graph_task_id")
# Before 2.0 PyTorch does not say whether a backward runs; the hook does, as long as it records.
graph_task_id = getattr(torch._C, "_current_graph_task_id", lambda: 0 if in_backward() else -1)
tracing_state = torch._C._get_tracing_state

# What Dynamo takes for True while it traces.  torch.compiler.is_dynamo_compiling is the cheapest: it only says False.
compiler = sys.modules.get("torch.compiler")
is_compiling = (getattr(compiler, "is_dynamo_compiling", None) or getattr(compiler, "is_compiling", None)
                or getattr(torch._utils, "is_compiling", None) or (lambda: False))

# What a compiler works on, on this thread.
guards = getattr(sys.modules.get("torch._guards"), "TracingContext", None)
compilation = getattr(guards, "try_get", lambda: None)

# record.h
DEF_MODULE, DEF_OPTIMIZER, DEF_TENSOR, INFO = 31, 32, 33, 40
PARAMETER, BUFFER, STATE, GRADIENT = 1, 2, 3, 4

# Bytes of one name.
MAX_FIELD = 1000
# How much of a call's arguments is looked through for tensors.
MAX_INPUTS = 64
MAX_DEPTH = 4
# step() calls of an optimizer before which gradients are defined, later ones by number, and after which all states are
# looked at.
FIRST_STEPS = 3
# Elements of a list in an optimizer's state that are named.
MAX_STATE_LIST = 16


def code_of(handler):
    """The code of a Python callable of any kind, or None."""
    try:
        handler = getattr(handler, "func", handler)  # a partial
        handler = getattr(handler, "__func__", handler)
        return getattr(handler, "__code__", None) or type(handler).__call__.__code__
    except Exception:
        return None


def pass_on(error):
    """Raise on what is not ours: the interpreter runs signal handlers between any two lines, and a time limit raises there."""
    codes = None
    step = error.__traceback__
    while step is not None:
        # Nearly always a frame of ours is all there is.
        if step.tb_frame.f_code.co_filename != own_code.co_filename:
            if codes is None:
                codes = {code_of(_signal.getsignal(number)) for number in range(1, _signal.NSIG)} - {None}
            if step.tb_frame.f_code in codes:
                raise error
        step = step.tb_next


def problem(place, error):
    """An error of ours: noted, once for each place, and forgotten."""
    pass_on(error)
    try:
        note(place, f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
    except Exception:
        pass


def text(*fields):
    """The text of a record.  A long field is cut, so that all of them, at most four, fit (RECORD_TEXT_MAX)."""
    return b"\0".join(map(cut, fields))


def cut(field):
    whole = field.replace("\0", "").encode("utf-8", "replace")
    if len(whole) <= MAX_FIELD:
        return whole
    return whole[: MAX_FIELD - 3].decode("utf-8", "ignore").encode("utf-8") + "\u2026".encode("utf-8")


# ---- tensors


def storage_of(tensor):
    """
    (address, bytes) of the memory behind a tensor, or None where it has none of its own.  With torch functions off.

    Not by untyped_storage(): the object that it makes stays with the storage for good.  What a tensor does not reach at
    the end of its storage is not counted; the recorder knows a block's size better.
    """
    kind = type(tensor)
    if kind is not Tensor and kind is not Parameter and getattr(kind, "__torch_dispatch__", None) is not no_dispatch:
        # A class of its own behaviour: what is inside a DTensor is an ordinary tensor, others are left alone.
        tensor = getattr(tensor, "_local_tensor", None) if kind.__name__ == "DTensor" else None
        if type(tensor) is not Tensor:
            return None
    if tensor.layout is not strided:
        return None
    try:
        address = data_ptr(tensor)
    except (RuntimeError, NotImplementedError):
        return None  # a functorch wrapper and the like
    if not address:
        return None
    item = tensor.element_size()
    before = tensor.storage_offset() * item
    if tensor.is_contiguous():
        extent = tensor.numel()
    else:
        extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return address - before, before + extent * item


def is_tensor(value):
    return type(value) is Tensor or Tensor in type(value).__mro__


def is_parameter(tensor):
    return Parameter in type(tensor).__mro__ or getattr(tensor, "_is_param", False)


def find_tensors(value, found, depth):
    """Append to `found` the tensors in nested lists, tuples and dictionaries, whatever their classes do."""
    kind = type(value)
    if len(found) >= MAX_INPUTS:
        return
    if kind is Tensor or Tensor in kind.__mro__:
        found.append(value)
    elif depth > 0:
        if issubclass(kind, tuple):
            items = tuple.__iter__(value)
        elif issubclass(kind, list):
            items = list.__iter__(value)
        elif issubclass(kind, dict):
            items = dict.values(value)
        else:
            return
        for item in itertools.islice(items, MAX_INPUTS):
            find_tensors(item, found, depth - 1)


def shape_of(tensor):
    return ",".join(map(str, tensor.shape))


# ---- what is known

next_id = itertools.count(1).__next__
ids = {}  # (root name, path, class) -> id
keys = {}  # the other way round
roots = {}  # root name -> weak reference to the module that has it
root_ids = {}  # module id -> id of its root
knowledge = {}  # id of a root -> Known
sent = {}  # module id -> {(kind, name): (address, bytes, path, id(tensor))}: the tensors that were defined
names = {}  # id(parameter) -> (weak reference to its module, name, module id, path); true only if the module has it


class Known:
    """What was found under a root the last time it was walked."""

    __slots__ = ("name", "owners", "pointers", "again", "calls", "in_vain", "moves")

    def __init__(self, name):
        self.name = name
        self.owners = ()  # weak references to the modules that have ordinary tensors
        self.pointers = []  # where those were
        self.again = False  # something was not ready: walk once more
        self.calls = 0
        self.in_vain = 0  # walks for a module that was not found
        self.moves = 0  # walks because something had moved, less the calls at which nothing had

    def module(self):
        reference = roots.get(self.name)
        return reference() if reference is not None else None


def class_name(module):
    kind = type(module)
    if kind.__name__ == "RecursiveScriptModule":
        return str(module.original_name)
    return kind.__name__


def inner(module):
    """The module that the user wrote, where torch.compile has put another around it."""
    while type(module).__name__ == "OptimizedModule" and type(module).__module__ == "torch._dynamo.eval_frame":
        module = module._modules["_orig_mod"]
    return module


def name_root(module):
    """A root's name: its class, numbered where several are alive."""
    base = class_name(module)
    mine = weakref.ref(module)
    for number in itertools.count(1):
        name = base if number == 1 else f"{base}#{number}"
        while True:
            reference = roots.setdefault(name, mine)
            holder = reference()
            if holder is module:
                return name
            if holder is not None:
                break
            # Its holder died.  Another thread may be here too and have taken the name by now: then give it back.
            taken = roots.pop(name, None)
            if taken is not None and taken() is not None:
                roots.setdefault(name, taken)


def give_name(number, key, root):
    """The id stands for (root name, path, class) from now on."""
    define(DEF_MODULE, number, 0, 0, root or number, 0, text(key[1], key[2], key[0]))
    keys[number] = key
    root_ids[number] = root or number


def define_module(module, root, root_name, path):
    """Make a module known under its name, new or left behind by one that died.  root: the id of its root, 0: itself."""
    key = (root_name, path, class_name(module))
    number = ids.get(key) or ids.setdefault(key, next_id())
    if keys.get(number) != key or root_ids.get(number) != (root or number):
        give_name(number, key, root)
    if identify(module) != number:
        # Another one had this id: its tensors may have been at the same addresses.
        sent.pop(number, None)
    remember(module, number)
    return number


def rename_module(module, number, root, root_name, path):
    """A module that was known by another name keeps its id, unless the new name has one already."""
    ids.pop(keys.get(number), None)
    key = (root_name, path, class_name(module))
    before, number = number, ids.setdefault(key, number)
    if before != number:
        sent.pop(number, None)
        for (kind, _), (_, _, path_before, _) in sent.pop(before, {}).items():
            take_back(kind, before, path_before, 0, "")
    give_name(number, key, root)
    root_ids[before] = root or number
    remember(module, number)
    return number


def take_back(kind, module, path, optimizer, key):
    """A name was sent of what goes by another now."""
    define(DEF_TENSOR, module, 0, 0, kind, optimizer, text(path, "", "", key))


def define_tensor(owner, module, kind, key, path, tensor):
    """Send a parameter or buffer of module `owner`, whose id is `module`, unless it is as it was sent."""
    storage = storage_of(tensor)
    if storage is None:
        return
    now = (*storage, path, id(tensor))
    mine = sent.get(module) or sent.setdefault(module, {})
    before = mine.get((kind, key))
    if before == now:
        return
    if before is not None and before[2] != path:
        take_back(kind, module, before[2], 0, "")
    define(DEF_TENSOR, module, *storage, kind, 0, text(path, str(tensor.dtype)[6:], shape_of(tensor), ""))
    if kind == PARAMETER:
        # A tied weight is called by the name that comes first, as in named_parameters().
        named = name_entry(tensor)
        if named is None or named[2] == module:
            names[id(tensor)] = (weakref.ref(owner), key, module, path)
    mine[(kind, key)] = now


def name_entry(parameter):
    """What `names` says of a parameter, if that is still true."""
    entry = names.get(id(parameter))
    owner = entry[0]() if entry is not None else None
    held = owner._parameters if owner is not None else ()
    return entry if owner is not None and entry[1] in held and held[entry[1]] is parameter else None


def modules_below(module, path=""):
    """(path, module) of a module and everything below it, each once, in order; compiled ones are looked through."""
    seen = set()
    stack = [(path, module)]
    while stack:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        while (plain := inner(module)) is not module:
            module = plain
            seen.add(id(module))
        children = [(f"{path}.{name}" if path else name, child) for name, child in module._modules.items() if child is not None]
        stack.extend(reversed(children))


def walk(root, root_name):
    """Define everything under a root; returns its id.  While torch.jit.trace runs only names: it would record our looking."""
    root = inner(root)
    root_id = define_module(root, 0, root_name, "")
    known = knowledge.get(root_id) or knowledge.setdefault(root_id, Known(root_name))
    known.again = tracing = tracing_state() is not None
    owners, pointers = [], []
    for path, outer in modules_below(root):
        module = inner(outer)
        number = identify(module)
        if not number:
            number = define_module(module, root_id, root_name, path)
        elif root_ids.get(number) == root_id:
            if keys[number][2] != class_name(module):  # a lazy module became what it stands for
                number = rename_module(module, number, 0 if number == root_id else root_id, *keys[number][:2])
        else:
            # It belongs to another root, unless that root is itself part of this one: then all of it moves here.
            theirs = root_ids.get(number)
            if theirs == number:
                release_root(number)
            if theirs == number or root_ids.get(theirs) == root_id:
                number = rename_module(module, number, root_id, root_name, path)
        if outer is not module:
            remember(outer, number)
        if not tracing and walk_tensors(module, number, path, known, pointers):
            owners.append(weakref.ref(module))
    known.owners, known.pointers = owners, pointers
    return root_id


def release_root(number):
    known = knowledge.pop(number, None)
    if known is not None:
        roots.pop(known.name, None)


def walk_tensors(module, number, path, known, pointers):
    """Define a module's own parameters and buffers.  Returns whether their pointers alone tell when they move."""
    ordinary = []
    plain = True
    for kind, tensors in ((PARAMETER, module._parameters), (BUFFER, module._buffers)):
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            # What functional_call puts in a parameter's place is none.
            if not is_tensor(tensor) or (kind == PARAMETER and not is_parameter(tensor)):
                plain = False
                continue
            define_tensor(module, number, kind, name, f"{path}.{name}" if path else name, tensor)
            if type(tensor) is Tensor or type(tensor) is Parameter:
                try:
                    ordinary.append(data_ptr(tensor))
                    continue
                except (RuntimeError, NotImplementedError):
                    pass
            elif "Uninitialized" in type(tensor).__name__:
                known.again = True  # a lazy module's; it is made in the first forward
            plain = False
    if not ordinary or not plain or type(module).__name__ == "RecursiveScriptModule":
        return False
    pointers.extend(ordinary)
    return True


def has_moved(known):
    """Whether a tensor under a root is elsewhere than it was: by .to(), .double(), a load, a new parameter."""
    pointers = []
    try:
        for owner in known.owners:
            module = owner()
            if module is None:
                return True
            for tensor in module._parameters.values():
                if tensor is not None:
                    pointers.append(data_ptr(tensor))
            for tensor in module._buffers.values():
                if tensor is not None:
                    pointers.append(data_ptr(tensor))
    except Exception as error:  # not an ordinary tensor any more
        pass_on(error)
        return True
    return pointers != known.pointers


def refresh(root_id, grad):
    """Before a root's call: define anew what has moved.  Bounded: without gradients only every eighth call looks."""
    known = knowledge.get(root_id)
    if known is None:  # its first call was interrupted before it was walked
        known = knowledge.setdefault(root_id, Known(keys[root_id][0]))
    known.calls += 1
    # Rarely: what pointers do not tell (a parameter of a module that had none).
    if is_rare(known.calls) or (known.again and known.calls < 16):
        walk_again(known)
    elif grad or known.calls % 8 == 0:
        if not has_moved(known):
            known.moves = max(known.moves - 1, 0)
            return
        # Where tensors are exchanged for every call (torch.func.functional_call), ever more rarely.
        known.moves += 1
        if known.moves < 8 or is_rare(known.moves):
            walk_again(known)


def is_rare(count):
    """True for powers of two."""
    return count & (count - 1) == 0


def walk_again(known):
    module = known.module()
    if module is not None:
        try:
            walk(module, known.name)
        except Exception as error:
            problem(4, error)


# ---- module calls


def open_root(module, args, kwargs):
    """A call that no other module's call encloses."""
    send_facts()
    if checkpoints is None:
        wrap_checkpoints()
    plain = inner(module)
    number = identify(plain)
    grad = torch.is_grad_enabled()
    # Not where a checkpoint's forward is run again, nor where torch.jit.trace would record our looking at tensors.
    look = graph_task_id() == -1 and tracing_state() is None
    if not number:
        number = define_module(plain, 0, name_root(plain), "")
        knowledge[number] = Known(keys[number][0])
        walk_again(knowledge[number])
    elif look:
        refresh(root_ids[number], grad)
        number = identify(plain) or number
    if plain is not module:
        remember(module, number)
    push(number, True, grad, bool(plain.training))
    if look:
        found = []
        find_tensors(args, found, MAX_DEPTH)
        if kwargs:
            find_tensors(kwargs, found, MAX_DEPTH)
        for tensor in found:
            storage = storage_of(tensor)
            if storage is not None:
                input_storage(*storage, tensor.requires_grad)


def open_nested(module):
    """A call inside another module's call, of a module that is not known."""
    plain = inner(module)
    number = identify(plain)
    root_id = current_root()
    known = knowledge.get(root_ids.get(root_id, root_id))
    if not number and known is not None:
        # Modules that are made on the fly are found nowhere: look for the first few and then ever more rarely.
        if known.in_vain < 8 or is_rare(known.in_vain):
            walk_again(known)
            number = identify(plain)
        if not number:
            known.in_vain += 1
    if not number:
        number = define_stray(plain, root_ids.get(root_id, root_id), known)
    if plain is not module:
        remember(module, number)
    push(number, False, False, False)


def define_stray(module, root_id, known):
    """A module that is called inside a root but is no part of it: all of its class go by one name."""
    if known is None or not root_id:
        return define_module(module, 0, name_root(module), "")
    return define_module(module, root_id, known.name, f"({class_name(module)})")


def is_compilers(module):
    """
    Whether a call is no part of the program but of torch.compile: it calls modules while it compiles, and what it has made may
    be one.  Then all that it calls is what its caller does.
    """
    return compilation() is not None or any(kind.__name__ == "_LazyGraphModule" for kind in type(module).__mro__)


def begin(module, args, kwargs):
    """Called when enter() cannot tell by itself what a call is."""
    try:
        with DisableTorchFunction():
            if is_compilers(module):
                return
            if in_module():
                open_nested(module)
            else:
                open_root(module, args, kwargs)
    except Exception as error:
        problem(0, error)


original_call = Module.__call__


def _wrapped_call_impl(self, *args, **kwargs):
    if is_compiling():
        return original_call(self, *args, **kwargs)
    try:
        if enter(self):
            begin(self, args, kwargs)
        if self._compiled_call_impl is not None:
            return self._compiled_call_impl(*args, **kwargs)
        else:
            return self._call_impl(*args, **kwargs)
    finally:
        leave()


def wrapped_call(original):
    """The function that replaces Module.__call__; for versions whose own does something else than ours repeats."""

    def _wrapped_call_impl(self, *args, **kwargs):
        if is_compiling():
            return original(self, *args, **kwargs)
        try:
            if enter(self):
                begin(self, args, kwargs)
            return original(self, *args, **kwargs)
        finally:
            leave()

    return _wrapped_call_impl


def new_call():
    """
    Module.__call__ with ours around it.  Where PyTorch's is what we know (2.1 to 2.14), ours does itself what that does:
    a frame less for each module, so no program meets the recursion limit earlier than without us.
    """

    def known_call(self, *args, **kwargs):
        if self._compiled_call_impl is not None:
            return self._compiled_call_impl(*args, **kwargs)
        else:
            return self._call_impl(*args, **kwargs)

    ours, theirs = known_call.__code__, getattr(original_call, "__code__", None)
    parts = ("co_code", "co_names", "co_varnames", "co_freevars", "co_argcount", "co_kwonlyargcount")
    same = theirs is not None and all(getattr(ours, part) == getattr(theirs, part) for part in parts)
    call = _wrapped_call_impl if same and original_call.__defaults__ is None else wrapped_call(original_call)
    for name in ("__doc__", "__module__", "__annotations__", "__dict__"):
        value = getattr(original_call, name, None)
        if value:
            setattr(call, name, value.copy() if isinstance(value, dict) else value)
    # Dynamo knows the method by this name; pickle finds it by the qualified one.
    call.__name__ = getattr(original_call, "__name__", "__call__")
    call.__qualname__ = "Module.__call__"
    return call


# ---- checkpoints
#
# What is run again in backward is told as a call of the module that called checkpoint(), also where no module is called in it.


def run_again(number, original):
    """@original, within a backward a call of module @number; None: of the one that made the node that runs."""

    def again(*args, **kwargs):
        if is_compiling() or graph_task_id() == -1:
            return original(*args, **kwargs)
        try:
            enter_again(number)
            return original(*args, **kwargs)
        finally:
            leave()

    return again


def new_checkpoint_frame(original):
    @functools.wraps(original)
    def __init__(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if is_compiling():
            return
        try:
            self.recompute_fn = run_again(current_module(), self.recompute_fn)
        except Exception as error:
            problem(6, error)

    return __init__


def new_checkpoint(original):
    """Up to 2.0 one function runs the program's forward, and in backward the same again."""

    @functools.wraps(original)
    def _checkpoint_without_reentrant(function, *args, **kwargs):
        if is_compiling():
            return original(function, *args, **kwargs)
        return original(run_again(current_module(), function), *args, **kwargs)

    return _checkpoint_without_reentrant


def wrap_checkpoints():
    """Since 2.0 PyTorch itself imports the module; before, the program does when it likes, before it calls a checkpoint."""
    global checkpoints
    found = sys.modules.get("torch.utils.checkpoint")
    # The latter is the last function of the module where there is no class of that name.
    if not hasattr(found, "_CheckpointFrame") and not hasattr(found, "_checkpoint_without_reentrant"):
        return
    checkpoints = found
    if hasattr(found, "_CheckpointFrame"):
        found._CheckpointFrame.__init__ = new_checkpoint_frame(found._CheckpointFrame.__init__)
    else:
        found._checkpoint_without_reentrant = new_checkpoint(found._checkpoint_without_reentrant)
    found.CheckpointFunction.backward = staticmethod(run_again(None, found.CheckpointFunction.backward))


# ---- optimizers


class Steps:
    """What is known of one optimizer; by its id."""

    __slots__ = ("calls", "nr_states", "states", "sent", "numbers")

    def __init__(self):
        self.calls = 0
        self.sent = {}  # (group, index, key) -> (address, bytes, module id, path): states; (group, index) -> (module id, path)
        self.numbers = {}  # id(parameter) -> number of its gradient; 0: it had none yet, -1: its memory is not looked at
        self.nr_states = -1
        self.states = 0  # id() of its dictionary of states: load_state_dict() makes another


steppers = {}  # optimizer id -> Steps
alive_optimizers = {}  # (class, number) -> weak reference


def define_optimizer(optimizer):
    """An id for an optimizer; one that died leaves its id to the next of its class."""
    kind = type(optimizer).__name__
    for count in itertools.count(1):
        reference = alive_optimizers.get((kind, count))
        if reference is None or reference() is None:
            alive_optimizers[(kind, count)] = weakref.ref(optimizer)
            break
    key = (None, count, kind)
    number = ids.get(key) or ids.setdefault(key, next_optimizer_id())
    if number not in steppers:
        define(DEF_OPTIMIZER, number, 0, 0, 0, 0, text(kind))
    steppers[number] = Steps()
    remember(optimizer, number)
    return number


next_optimizer_id = itertools.count(1).__next__


def name_of(parameter, group, index, before=None):
    """(module id, path) of a parameter; if no module has it, what it was called before, else 0 and its place in the optimizer."""
    entry = name_entry(parameter)
    if entry is not None:
        return entry[2:]
    return before or (0, f"param_groups[{group}][{index}]")


def parameters_of(optimizer):
    for group, options in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(options["params"]):
            if is_tensor(parameter):
                yield group, index, parameter


next_gradient_number = itertools.count(1).__next__
gradient_numbers = {}  # (optimizer id, group, index) -> number


def finish_walks():
    """Walk once more what was not ready before its first call: lazy modules' parameters have names now."""
    for known in list(knowledge.values()):
        if known.again and known.calls < 16:
            walk_again(known)


def define_gradients(number, optimizer, known):
    finish_walks()
    numbers = {}
    for group, index, parameter in parameters_of(optimizer):
        if not parameter.is_leaf:
            numbers[id(parameter)] = -1
            continue
        gradient = parameter.grad
        storage = storage_of(gradient) if gradient is not None else None
        if storage is None:
            numbers[id(parameter)] = 0 if gradient is None else -1
            continue
        place = (number, group, index)
        gradient_number = gradient_numbers.get(place) or gradient_numbers.setdefault(place, next_gradient_number())
        before = known.sent.get((group, index))
        now = name_of(parameter, group, index, before)
        if before is not None and before != now:
            take_back(GRADIENT, before[0], before[1], 0, "")
        define(DEF_TENSOR, now[0], *storage, GRADIENT, gradient_number,
               text(now[1], str(gradient.dtype)[6:], shape_of(gradient), ""))
        known.sent[(group, index)] = now
        numbers[id(parameter)] = gradient_number
    known.numbers = numbers


def tell_gradients(optimizer, numbers):
    """Say where the gradients are; False: there is one that has no number."""
    for options in optimizer.param_groups:
        for parameter in options["params"]:
            number = numbers.get(id(parameter))
            if number is None:
                return False
            if number >= 0 and (gradient := parameter.grad) is not None:
                if not number or gradient.layout is not strided:
                    return False
                gradient_at(number, data_ptr(gradient))
    return True


def define_states(number, optimizer, known):
    finish_walks()
    states = optimizer.state
    for group, index, parameter in parameters_of(optimizer):
        state = states.get(parameter)  # never [parameter]: that would make one
        if not isinstance(state, dict):
            continue
        module, path = known.sent[(group, index)] = name_of(parameter, group, index, known.sent.get((group, index)))
        for key, value in list(state.items()):
            if is_tensor(value):
                define_state(number, known.sent, (group, index, str(key)), module, path, value)
            elif type(value) in (list, tuple):
                for place, item in enumerate(value[:MAX_STATE_LIST]):
                    if is_tensor(item):
                        define_state(number, known.sent, (group, index, f"{key}[{place}]"), module, path, item)


def define_state(number, mine, place, module, path, tensor):
    storage = storage_of(tensor)
    if storage is None:
        return
    now = (*storage, module, path)
    before = mine.get(place, now)
    if before == now and place in mine:
        return
    if before[2:] != now[2:]:
        take_back(STATE, *before[2:], number, place[2])
    define(DEF_TENSOR, module, *storage, STATE, number, text(path, str(tensor.dtype)[6:], shape_of(tensor), place[2]))
    mine[place] = now


def step_begins(optimizer):
    if not is_on():
        return
    try:
        with DisableTorchFunction():
            send_facts()
            number = identify(optimizer) or define_optimizer(optimizer)
            known = steppers[number]
            known.calls += 1
            if known.calls <= FIRST_STEPS or is_rare(known.calls) or not tell_gradients(optimizer, known.numbers):
                define_gradients(number, optimizer, known)
            step_push(number)
    except Exception as error:
        problem(1, error)


def step_ends(optimizer):
    try:
        number = identify(optimizer)
        known = steppers.get(number)
        if known is None:
            return
        states = optimizer.state
        nr_states = sum(map(len, states.values()))
        if known.calls <= FIRST_STEPS or nr_states != known.nr_states or id(states) != known.states:
            known.nr_states, known.states = nr_states, id(states)
            with DisableTorchFunction():
                define_states(number, optimizer, known)
    except Exception as error:
        problem(2, error)


def wrap_step(hooked):
    """An optimizer's step, as Optimizer.profile_hook_step made it, with our scope around it."""

    @functools.wraps(hooked)
    def wrapper(*args, **kwargs):
        if is_compiling() or not args:
            return hooked(*args, **kwargs)
        try:
            step_open()
            step_begins(args[0])
            try:
                return hooked(*args, **kwargs)
            finally:
                step_ends(args[0])
        finally:
            step_close()

    # What the user unwraps is the function that PyTorch wrapped.
    wrapper.__wrapped__ = getattr(hooked, "__wrapped__", hooked)
    return wrapper


def new_hook_step(original):
    @functools.wraps(original)
    def profile_hook_step(func):
        return wrap_step(original(func))

    return staticmethod(profile_hook_step)


def new_hook_for_profile(original):
    """Before 2.0 profile_hook_step is a function inside of this one, which is called for each new optimizer."""

    @functools.wraps(original)
    def _hook_for_profile(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        try:
            wrap_step_of(type(self))
        except Exception as error:
            problem(7, error)
        return result

    return _hook_for_profile


def wrap_step_of(kind):
    step = kind.__dict__.get("step")
    if getattr(step, "hooked", False) and getattr(step, "__code__", None) not in wrap_step.__code__.co_consts:
        kind.step = wrap_step(step)


def wrap_known_optimizers():
    """Classes of which optimizers were made before we came."""
    classes = Optimizer.__subclasses__()
    for kind in classes:
        classes.extend(other for other in type.__subclasses__(kind) if other not in classes)
        wrap_step_of(kind)


def new_update(original):
    @functools.wraps(original)
    def update(*args, **kwargs):
        if is_compiling():
            return original(*args, **kwargs)
        result = original(*args, **kwargs)
        scaler_update()
        return result

    return update


# ---- facts about the run


facts_are_due = True


def send_facts():
    """What the run file says of PyTorch; once, when something is recorded and operators run anyway."""
    global facts_are_due
    if not facts_are_due:
        return
    try:
        version = torch.version
        facts = {
            "torch_version": str(torch.__version__),
            "torch_git": getattr(version, "git_version", None),
            "cuda": getattr(version, "cuda", None),
            "python_version": sys.version.split()[0],
            "cpu_capability": capability(),
            "num_threads": str(torch.get_num_threads()),
            "adapter": "attached",
        }
        for key, value in facts.items():
            if value is not None:
                define(INFO, 0, 0, 0, 0, 0, text(key, str(value)))
        if not tells_graph_task:
            limit(f"PyTorch {torch.__version__}: what a checkpoint without reentrance saves before it runs a module again is "
                  "told as backward, not as recompute".encode())
    except Exception as error:
        problem(3, error)
    facts_are_due = False


def capability():
    backend = getattr(torch.backends, "cpu", None)
    return backend.get_cpu_capability() if backend is not None else None


def hide_from_dynamo(code):
    """Frames of this code, and of the functions in it, are run and not compiled; what they call is compiled as ever."""
    frames = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    if hasattr(frames, "set_code_exec_strategy"):
        action = frames._FrameAction
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(action.SKIP, action.DEFAULT))
    elif hasattr(frames, "skip_code"):
        frames.skip_code(code)
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            hide_from_dynamo(constant)


# ---- stacks


def facts_of(frame):
    """What Python says of its frames, for check_stacks()."""
    facts = []
    while frame is not None:
        code = frame.f_code
        file, name, lines = code.co_filename, getattr(code, "co_qualname", code.co_name), code.co_linetable
        facts.append((id(code), id(file), id(name), id(lines), code.co_firstlineno, frame.f_lineno or 0, file, name))
        frame = frame.f_back
    return tuple(facts)


def compare_stacks():
    """Let what the hook reads of frames be compared: of this import and of a nest of unlike frames."""

    def innermost(folder):
        check_stacks(facts_of(sys._getframe()), folder, library)

    try:
        library = getattr(sys.modules.get("os"), "__file__", "").rpartition("/")[0]
        for _ in (innermost(folder) for folder in torch.__path__[:1]):
            pass
    except Exception as error:
        problem(5, error)


# ---- last, so that an error above leaves PyTorch as it is

hide_from_dynamo(own_code)
compare_stacks()
Module.__call__ = new_call()
if hasattr(Optimizer, "profile_hook_step"):
    Optimizer.profile_hook_step = new_hook_step(Optimizer.profile_hook_step)
else:
    Optimizer._hook_for_profile = new_hook_for_profile(Optimizer._hook_for_profile)
wrap_known_optimizers()
wrap_checkpoints()
if GradScaler is not None:
    GradScaler.update = new_update(GradScaler.update)
