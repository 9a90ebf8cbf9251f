//! The one unsafe call of this crate: what a pull has freed goes back to the system, whichever thread freed it.
#![allow(unsafe_code, reason = "mallopt(3) has no safe wrapper")]

/// Blocks of so many bytes and more are mapped by themselves, and unmapped when they are freed. Batches and buffers are smaller, pieces of
/// a tree, its tables and the windows of decoders larger.
const MAPPED_FROM: i32 = 1 << 20;

/// Stops glibc's malloc from keeping freed memory: by default it raises the size from which blocks are mapped, and what it keeps free at
/// the end of each thread's arena, to as much as 64 MiB once such blocks were freed (`mallopt(3)`, "dynamic mmap threshold"). With layers
/// converted on several threads, a pull would hold tens of megabytes it no longer uses. Holds for the whole process, from the first pull on.
pub(super) fn give_back_what_is_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers, may be called at any time from any thread, and changes no block that is allocated already.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}
