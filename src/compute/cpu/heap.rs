//! How the C library's allocator is set for buffers of megabytes that come and go on many threads.
//!
//! Without the GNU C library nothing here does anything.

/// What a process does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heap {
    /// Two arenas, where the default is eight for each core: threads do not each keep what others could use, so a long run
    /// needs no more memory than a short one.
    Shared,
    /// One arena that keeps what is freed. Whoever reads a dataset needs large buffers of the same sizes again and again;
    /// by default each is given back to the kernel and its pages are faulted in anew, which takes longer than decoding.
    Kept,
}

/// Set the allocator, before the process starts threads. `is_set` says whether the environment has a variable: what an
/// operator chose (`MALLOC_ARENA_MAX`, ...) is obeyed.
pub fn settle(heap: Heap, is_set: &dyn Fn(&str) -> bool) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const GIB: libc::c_int = 1 << 30;
        let choices: &[(&str, libc::c_int, libc::c_int)] = match heap {
            Heap::Shared => &[("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, 2)],
            Heap::Kept => &[
                ("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, 1),
                ("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, GIB),
                ("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, GIB),
            ],
        };
        for &(_, parameter, value) in choices.iter().filter(|(variable, ..)| !is_set(variable)) {
            // SAFETY: mallopt takes two numbers. A value that it refuses changes nothing, and memory is then handled as
            // it always was.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = (heap, is_set);
}
