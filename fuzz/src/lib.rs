//! Frame of the fuzz targets: each gets bytes from libFuzzer, and may not take more memory than it says.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Runs `body` with `data`, and fails if that takes more than `limit` bytes of memory at any time.
pub fn run(body: impl FnOnce(&[u8]), data: &[u8], limit: usize) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    body(data);
    let used = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(used <= limit, "it took {used} bytes of memory, more than {limit}");
}

/// A program that runs a target, which may take so many bytes of memory, and so many more for each byte of the input.
#[macro_export]
macro_rules! target {
    ($body:expr, $limit:expr) => {
        $crate::target!($body, $limit, 0);
    };
    ($body:expr, $limit:expr, $for_each_byte:expr) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::run(
            $body,
            data,
            $limit + $for_each_byte * data.len()
        ));
    };
}
