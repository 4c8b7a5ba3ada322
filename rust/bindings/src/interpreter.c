/* The few facts of the interpreter that have no public function.
 *
 * Compiled against the headers of the very interpreter that the module is built for, and called from
 * `interpreter.rs` only. Every function here needs an attached thread state, never runs Python code
 * unless it says so, and never raises.
 *
 * 1. The current context, without a copy of it (`penstock_current_context`).
 * 2. Whether a collection is under way (`penstock_collecting`).
 * 3. Free-threaded 3.14: strong references for a fiber that is about to leave its stack
 *    (`penstock_hold_deferred`).
 * 4. A moment in which no other thread is attached (`penstock_stop_the_world`).
 * 5. Whether two contexts have the same variables (`penstock_same_variables`).
 * 6. Which code called, without frame objects (`penstock_spots`).
 * 7. Free-threaded: an exception that whoever drops it frees (`penstock_disown_exception`).
 *
 * Why 3 is needed. Without the GIL, references on the evaluation stack to functions, code, classes,
 * methods and modules are not counted ("deferred"): the collector finds them in a walk over the frames of
 * every thread state (`gc_visit_thread_stacks` in Python/gc_free_threading.c), and nothing else frees such
 * an object. A parked fiber's frames hang on no thread state, and greenlet visits them from 3.15 on only.
 * So an object that is only on the stack of a parked fiber (`def task(): return target(ch.recv())`, and
 * `target` is defined again meanwhile) is freed, and the resume calls what lies there by then.
 *
 * Why a count is enough. The collector takes an object as reachable when its count exceeds the references
 * that it finds from other objects. A hold is in memory that it does not know, so what we counted stays
 * alive, and what hangs on that too. Before the switch the collector sees the frames, after the return
 * again; in between it sees the counts. No collection runs while the frames are walked, because it stops
 * the world and this thread does not detach here.
 *
 * What is held: whatever the collector's own walk would visit, and `f_funcobj`, on which the borrowed
 * `f_globals` and `f_builtins` rest. It walks the same frames with the same `stackpointer`, which the
 * evaluation loop stores before each call that may come back to Python; where it is NULL (GH-129236) the
 * collector spares all deferred objects, and we refuse: that call must block its thread. Arguments of a
 * vectorcall point into the caller's evaluation stack, so they are covered, and a C function that has a
 * deferred reference of its own has it in `c_stack_refs`. A frame of the interpreter or of C has none. A
 * running generator's frame is linked in like any other; its object visits it as well, to no harm.
 * The chain of a greenlet ends at NULL (greenlet starts it so), that of a hub at the thread's base.
 *
 * What is left out: a deferred tag on an object that is counted after all. It is a borrow: the owner is a
 * local variable of the same frame, or the object is immortal. Counting it would be correct too, and
 * would only cost. Frames and generators that the collector finds unreachable turn their deferred
 * references into strong ones (`frame_disable_deferred_refcounting`): it cannot find ours so, because
 * greenlet has a counted reference to the topmost frame object that no object's traversal accounts for.
 *
 * What else is per thread and stays right, because a fiber never leaves its thread: the per-thread counts
 * of code and classes (`_co_unique_id`, merged at each collection; a sum, so one side of a pair may use
 * them and the other not), the queue of counts to merge (`brc`), memory freed late (QSBR: a parked fiber
 * stands where a thread might have detached, so it relies on nothing that a quiescent state frees), and the
 * thread's own bytecode, which is kept while its index is in use.
 *
 * Tried and dropped: visiting the frames from the traversal of an object of ours. During the subtraction
 * phase a deferred reference must not be visited, and 3.14 exports nothing that tells the phases apart.
 */

#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE_MODULE 1 /* The internal headers, as CPython's own shared extensions see them. */
#include <Python.h>

#if PY_VERSION_HEX < 0x030E0000
#  include "internal/pycore_frame.h"
#else
#  include "internal/pycore_interpframe.h"
#  include "internal/pycore_stackref.h"
#endif
#include "internal/pycore_context.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_pystate.h"
#include "internal/pycore_runtime.h"

#ifdef Py_GIL_DISABLED
#  if PY_VERSION_HEX < 0x030E0000 || PY_VERSION_HEX >= 0x030F0000
#    error "without the GIL only CPython 3.14 is supported: frames are laid out otherwise elsewhere"
#  endif
#  include "internal/pycore_object.h"
#  include "internal/pycore_tstate.h"
#  include "internal/pycore_uniqueid.h"
#endif

/* Until `penstock_start_the_world` no other thread is attached, on any build. In between the caller runs no Python code,
 * and neither detaches nor drops a reference. */
void
penstock_stop_the_world(void)
{
#ifdef Py_GIL_DISABLED
    _PyEval_StopTheWorld(PyInterpreterState_Get());
#endif
}

void
penstock_start_the_world(void)
{
#ifdef Py_GIL_DISABLED
    _PyEval_StartTheWorld(PyInterpreterState_Get());
#endif
}

static PyThreadState *
current_thread(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

/* What threading.get_ident() gives here. */
uintptr_t
penstock_this_thread(void)
{
    return (uintptr_t)PyThread_get_thread_ident();
}

/* Whether a trace function is set on this thread. */
int
penstock_is_traced(void)
{
    return current_thread()->c_tracefunc != NULL;
}

/* Context ------------------------------------------------------------------------------------- */

/* A borrowed reference to the context of this thread, or NULL where it has none yet. Only this thread
 * replaces it, so it lives until this thread runs Python code again. The public way, PyContext_CopyCurrent,
 * allocates, and makes a context where there was none. */
PyObject *
penstock_current_context(void)
{
    return current_thread()->context;
}

/* Whether both contexts have the very same variables. These are an immutable map that copies share, so the answer
 * costs a comparison; it may be no where the maps are equal. False where a context is not laid out as in our headers.
 * The second is this thread's current one, and the first is entered nowhere. */
int
penstock_same_variables(PyObject *first, PyObject *second)
{
    return PyContext_Type.tp_basicsize == sizeof(PyContext)
        && ((PyContext *)first)->ctx_vars == ((PyContext *)second)->ctx_vars;
}

/* Collection ---------------------------------------------------------------------------------- */

/* Whether some thread of this interpreter is inside a collection: not whether it is this one, because a
 * finalizer may let go of the GIL, and without the GIL the others run while finalizers do.
 * From 3.13 on the offsets come from the running interpreter, which publishes them for debuggers;
 * before, the branch gets security fixes only, and its structures no longer move. */
int
penstock_collecting(void)
{
    PyInterpreterState *interpreter = current_thread()->interp;
#if PY_VERSION_HEX >= 0x030D0000
    const _Py_DebugOffsets *offsets = &_PyRuntime.debug_offsets;
    const char *state = (const char *)interpreter + offsets->interpreter_state.gc;
    /* Relaxed: `interpreter.rs` acts on it only where this thread itself began the collection. */
    return _Py_atomic_load_int_relaxed((const int *)(state + offsets->gc.collecting));
#else
    return interpreter->gc.collecting;
#endif
}

/* Callables ----------------------------------------------------------------------------------- */

/* 0: a plain function for sure, 1: an `async def` function, -1: to be looked at closely (anything
 * else that can be called, or a function with attributes, one of which may mark it as async). */
int
penstock_function_kind(PyObject *callable)
{
    if (PyCFunction_Check(callable)) {
        return 0;
    }
    if (PyMethod_Check(callable)) {
        callable = PyMethod_GET_FUNCTION(callable);
    }
    if (!PyFunction_Check(callable)) {
        return -1;
    }
    if (((PyCodeObject *)PyFunction_GET_CODE(callable))->co_flags & CO_COROUTINE) {
        return 1;
    }
    PyObject *attributes = ((PyFunctionObject *)callable)->func_dict;
    return attributes == NULL || PyDict_GET_SIZE(attributes) == 0 ? 0 : -1;
}

/* Files --------------------------------------------------------------------------------------- */

/* Whether a frame of this greenlet runs code of the file that `filename` names, compared by identity: all code
 * of a module has the same string. Creates no frame objects, so it costs a few nanoseconds a frame. */
int
penstock_runs_in_file(PyObject *filename)
{
    PyThreadState *state = current_thread();
#if PY_VERSION_HEX >= 0x030D0000
    struct _PyInterpreterFrame *frame = state->current_frame;
#else
    struct _PyInterpreterFrame *frame = state->cframe->current_frame;
#endif
    for (; frame != NULL; frame = frame->previous) {
#if PY_VERSION_HEX >= 0x030E0000
        PyObject *code = PyStackRef_AsPyObjectBorrow(frame->f_executable);
#elif PY_VERSION_HEX >= 0x030D0000
        PyObject *code = frame->f_executable;
#else
        PyObject *code = (PyObject *)frame->f_code;
#endif
        if (code != NULL && PyCode_Check(code) && ((PyCodeObject *)code)->co_filename == filename) {
            return 1;
        }
    }
    return 0;
}
/* Sites --------------------------------------------------------------------------------------- */

/* A place in code that runs: the code, a strong reference, and how many bytes into its instructions. */
struct penstock_spot {
    PyObject *code;
    int offset;
};

/* Fills `spots` with where the Python frames of this greenlet stand, the innermost first, at most `room` of them; says
 * how many there were. Makes no frame objects and no strings: a line number is looked up by whoever wants to read it. */
int
penstock_spots(struct penstock_spot *spots, int room)
{
    PyThreadState *state = current_thread();
#if PY_VERSION_HEX >= 0x030D0000
    struct _PyInterpreterFrame *frame = state->current_frame;
#else
    struct _PyInterpreterFrame *frame = state->cframe->current_frame;
#endif
    int count = 0;
    for (; frame != NULL && count < room; frame = frame->previous) {
        if (_PyFrame_IsIncomplete(frame)) {
            continue;
        }
#if PY_VERSION_HEX >= 0x030E0000
        PyObject *code = PyStackRef_AsPyObjectBorrow(frame->f_executable);
#elif PY_VERSION_HEX >= 0x030D0000
        PyObject *code = frame->f_executable;
#else
        PyObject *code = (PyObject *)frame->f_code;
#endif
        if (code != NULL && PyCode_Check(code)) {
            spots[count].code = Py_NewRef(code);
            spots[count].offset = _PyInterpreterFrame_LASTI(frame) * (int)sizeof(_Py_CODEUNIT);
            count += 1;
        }
    }
    return count;
}

/* Deferred references ------------------------------------------------------------------------- */

#ifdef Py_GIL_DISABLED
/* An object of a class is gone. The interpreter counts a new object in a number of this thread's own; taken from the
 * count of the class itself, as the public function would, each is an atomic operation on what all threads share. */
void
penstock_uncount_object(PyTypeObject *class)
{
    _Py_DECREF_TYPE(class);
}
#endif

#ifdef Py_GIL_DISABLED

/* What one fiber holds. Only its own thread reads and writes it.
 *
 * Invariant: each of `objects[0 .. length]` has been counted once. */
struct penstock_hold {
    size_t length;
    size_t capacity; /* how many there is room for; never shrinks */
    PyObject *objects[];
};

/* Room for a handful of frames; one that is deeper grows its hold once and keeps it. */
#define HOLD_CAPACITY_MIN ((size_t)30)

/* Whether the running interpreter is the very release of our headers, so that fields which it does not
 * publish the offsets of are where we think they are. */
static int
is_same_release(void)
{
    return Py_Version == PY_VERSION_HEX;
}

/* Whether the frames of the running interpreter are laid out as in our headers. Where not, nothing below may
 * be called, and fibers have to stay off. */
int
penstock_frames_match(void)
{
    const _Py_DebugOffsets *offsets = &_PyRuntime.debug_offsets;
    return (Py_Version >> 16) == (PY_VERSION_HEX >> 16) && offsets->free_threaded
        && offsets->thread_state.current_frame == offsetof(PyThreadState, current_frame)
        && offsets->interpreter_frame.size == sizeof(_PyInterpreterFrame)
        && offsets->interpreter_frame.previous == offsetof(_PyInterpreterFrame, previous)
        && offsets->interpreter_frame.executable == offsetof(_PyInterpreterFrame, f_executable)
        && offsets->interpreter_frame.localsplus == offsetof(_PyInterpreterFrame, localsplus)
        && offsets->interpreter_frame.owner == offsetof(_PyInterpreterFrame, owner)
        && offsets->interpreter_frame.stackpointer == offsetof(_PyInterpreterFrame, stackpointer);
}

/* The index of `object`'s count in the tables of the threads, which is out of any table's range where it
 * has none. With these, workers that park in the same code do not fight for one cache line; functions have
 * no such count. */
static size_t
count_index(PyObject *object)
{
    Py_ssize_t id = 0;
    if (PyCode_Check(object)) {
        id = ((PyCodeObject *)object)->_co_unique_id;
    }
    else if (PyType_Check(object) && PyType_HasFeature((PyTypeObject *)object, Py_TPFLAGS_HEAPTYPE)) {
        id = ((PyHeapTypeObject *)object)->unique_id;
    }
    return (size_t)id - 1; /* ids start at 1 */
}

static void
count(_PyThreadStateImpl *thread, PyObject *object)
{
    size_t index = thread != NULL ? count_index(object) : SIZE_MAX;
    if (index == SIZE_MAX) {
        Py_INCREF(object);
    }
    else if (index < (size_t)thread->refcounts.size) {
        thread->refcounts.values[index] += 1;
    }
    else {
        _PyObject_ThreadIncrefSlow(object, index); /* makes the table longer */
    }
}

static void
uncount(_PyThreadStateImpl *thread, PyObject *object)
{
    size_t index = thread != NULL ? count_index(object) : SIZE_MAX;
    if (thread != NULL && index < (size_t)thread->refcounts.size) {
        thread->refcounts.values[index] -= 1;
    }
    else {
        Py_DECREF(object);
    }
}

/* The state of this thread where its own table of counts can be relied on, else NULL. */
static _PyThreadStateImpl *
counting_thread(void)
{
    return is_same_release() ? (_PyThreadStateImpl *)current_thread() : NULL;
}

/* Lets go of all but the first `length` objects. The collector alone frees what has a deferred count, so
 * no Python code runs here, until a collection at shutdown has ended that. */
static void
shorten(struct penstock_hold *hold, _PyThreadStateImpl *thread, size_t length)
{
    while (hold->length > length) {
        /* INVARIANT: the object is out of the hold before its count goes. */
        hold->length -= 1;
        uncount(thread, hold->objects[hold->length]);
    }
}

/* Lets go of what `hold` holds, which may be NULL. Only where the collector sees the fiber's frames again:
 * behind the return of the switch, or once the fiber has none. */
void
penstock_drop_deferred(struct penstock_hold *hold)
{
    if (hold != NULL) {
        shorten(hold, counting_thread(), 0);
    }
}

/* Makes room for `more` objects. Returns -1 where there is no memory. */
static int
reserve(struct penstock_hold **hold, size_t more)
{
    size_t length = *hold != NULL ? (*hold)->length : 0;
    size_t capacity = *hold != NULL ? (*hold)->capacity : 0;
    if (capacity - length >= more) {
        return 0;
    }
    capacity = Py_MAX(Py_MAX(capacity * 2, length + more), HOLD_CAPACITY_MIN);
    /* Raw memory: the collector walks the objects' heaps, and this is none. */
    struct penstock_hold *grown =
        PyMem_RawRealloc(*hold, sizeof(struct penstock_hold) + capacity * sizeof(PyObject *));
    if (grown == NULL) {
        return -1;
    }
    grown->length = length;
    grown->capacity = capacity;
    *hold = grown;
    return 0;
}

/* Holds what `reference` refers to if nothing else counts it. The first `current` objects belong to this
 * walk; what follows is left from the park before. Returns the new `current`. There is room for one more. */
static inline size_t
hold_reference(struct penstock_hold *hold, size_t current, _PyThreadStateImpl *thread, _PyStackRef reference)
{
    if (!PyStackRef_IsDeferred(reference) || PyStackRef_IsNullOrInt(reference)) {
        return current;
    }
    PyObject *object = PyStackRef_AsPyObjectBorrow(reference);
    bool left = current < hold->length;
    if (left && hold->objects[current] == object) {
        return current + 1;
    }
    if (!_PyObject_HasDeferredRefcount(object)) {
        return current;
    }
    if (left) {
        /* Something else is left here: it goes to the end, to be let go of after the walk. */
        hold->objects[hold->length] = hold->objects[current];
    }
    hold->length += 1;
    /* INVARIANT: the slot at `current` has no counted object in it until this one is. */
    count(thread, object);
    hold->objects[current] = object;
    return current + 1;
}

/* Takes a counted reference to every deferred one in this greenlet's frames, right before the switch away
 * from it. `*hold` is NULL at first; it is allocated here, and given back with `penstock_free_hold`.
 *
 * Where the hold was not dropped since the last park, only the differences cost a count: a task that
 * waits at one spot again and again pays for the walk alone. Until then it keeps alive what was on its stack
 * the last time, so the owner drops it when the task ends and when this thread begins a collection.
 *
 * Returns -1, holding nothing, where the switch must not happen: a frame's stack is not to be read now, or
 * there is no memory. */
int
penstock_hold_deferred(struct penstock_hold **hold)
{
    PyThreadState *state = current_thread();
    _PyThreadStateImpl *thread = counting_thread();
    size_t current = 0;
    /* Of another release this field may be elsewhere; greenlet, which was built for it, holds these too. */
    for (_PyCStackRef *on_c_stack = thread != NULL ? thread->c_stack_refs : NULL; on_c_stack != NULL;
         on_c_stack = on_c_stack->next) {
        if (reserve(hold, 1) < 0) {
            goto refuse;
        }
        current = hold_reference(*hold, current, thread, on_c_stack->ref);
    }
    for (_PyInterpreterFrame *frame = state->current_frame; frame != NULL; frame = frame->previous) {
        if (frame->owner >= FRAME_OWNED_BY_INTERPRETER) {
            continue;
        }
        _PyStackRef *top = frame->stackpointer;
        if (top == NULL || reserve(hold, (size_t)(top - frame->localsplus) + 2) < 0) {
            goto refuse;
        }
        current = hold_reference(*hold, current, thread, frame->f_executable);
        current = hold_reference(*hold, current, thread, frame->f_funcobj);
        for (_PyStackRef *reference = frame->localsplus; reference != top; reference++) {
            current = hold_reference(*hold, current, thread, *reference);
        }
    }
    if (*hold != NULL) {
        shorten(*hold, thread, current);
    }
    return 0;

refuse:
    penstock_drop_deferred(*hold);
    return -1;
}

/* Lets whichever thread drops the last reference to `object` free it, if it belongs to this one: `_Py_ExplicitMergeRefcount`,
 * which extensions do not get. The caller has a reference. */
static void
disown(PyObject *object)
{
    if (_Py_atomic_load_uintptr_relaxed(&object->ob_tid) != _Py_ThreadId()) {
        return;
    }
    uint32_t local = _Py_atomic_load_uint32_relaxed(&object->ob_ref_local);
    if (local == _Py_IMMORTAL_REFCNT_LOCAL) {
        return;
    }
    Py_ssize_t shared = _Py_atomic_load_ssize_relaxed(&object->ob_ref_shared);
    Py_ssize_t merged;
    do {
        Py_ssize_t count = Py_ARITHMETIC_RIGHT_SHIFT(Py_ssize_t, shared, _Py_REF_SHARED_SHIFT) + local;
        merged = _Py_REF_SHARED(count, _Py_REF_MERGED);
    } while (!_Py_atomic_compare_exchange_ssize(&object->ob_ref_shared, &shared, merged));
    _Py_atomic_store_uint32_relaxed(&object->ob_ref_local, 0);
    _Py_atomic_store_uintptr_relaxed(&object->ob_tid, 0);
}

/* So many exceptions of a chain, which may have a cycle. */
#define DISOWNED_CHAIN_MAX 8

/* Disowns an exception, what it came from, their tracebacks and the frames of those: as they go, so does what the frames
 * refer to. May free what another thread has just taken out of a traceback, and so run Python code. */
void
penstock_disown_exception(PyObject *exception)
{
    Py_INCREF(exception);
    for (int depth = 0; exception != NULL && depth < DISOWNED_CHAIN_MAX; depth++) {
        disown(exception);
        PyObject *traceback = PyException_GetTraceback(exception);
        while (traceback != NULL) {
            disown(traceback);
            PyObject *frame, *next;
            Py_BEGIN_CRITICAL_SECTION(traceback);
            frame = Py_NewRef(((PyTracebackObject *)traceback)->tb_frame);
            next = Py_XNewRef(((PyTracebackObject *)traceback)->tb_next);
            Py_END_CRITICAL_SECTION();
            disown(frame);
            Py_DECREF(frame);
            Py_SETREF(traceback, next);
        }
        Py_SETREF(exception, PyException_GetContext(exception));
    }
    Py_XDECREF(exception);
}

/* Gives back the memory of a hold, which may be NULL. What it still holds stays alive for good. Needs no
 * thread state. */
void
penstock_free_hold(struct penstock_hold *hold)
{
    PyMem_RawFree(hold);
}

#endif /* Py_GIL_DISABLED */

/* Counts -------------------------------------------------------------------------------------- */

/* How many references to `object` are counted: on the object, and without the GIL also in this thread's table,
 * where the counts of code and classes are (`count` above). */
Py_ssize_t
penstock_references_to(PyObject *object)
{
    Py_ssize_t references = Py_REFCNT(object);
#ifdef Py_GIL_DISABLED
    _PyThreadStateImpl *thread = counting_thread();
    size_t index = thread != NULL ? count_index(object) : SIZE_MAX;
    if (thread != NULL && index < (size_t)thread->refcounts.size) {
        references += thread->refcounts.values[index];
    }
#endif
    return references;
}
