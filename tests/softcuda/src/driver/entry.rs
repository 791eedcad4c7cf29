//! What every exported function shares: its signature macro, result codes, and the fence that keeps a
//! panic from unwinding into C.
//!
//! [`entries!`] turns a list of functions into `extern "C"` symbols and into a table that
//! `cuGetProcAddress` searches, so a function cannot be exported and missing from that table.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::errors::Code;
use super::settings;

/// What a driver function comes to: nothing, or the error it returns.
pub type Outcome = Result<(), Code>;

/// An opaque handle: stream, event, module, … The driver API hands them out as pointers.
pub type Handle = usize;

/// One exported function: its symbol and its address.
pub struct Entry {
    /// The symbol, such as `cuMemAlloc_v2`.
    pub name: &'static str,
    /// The address of the function.
    pub address: Address,
    /// Its variant whose default stream is the calling thread's own (`_ptsz`, `_ptds`), where it has one.
    pub per_thread: Option<Address>,
}

/// A function's address; a plain number to everything but the caller of `cuGetProcAddress`.
pub struct Address(pub *const ());

// SAFETY: the address of a function is never dereferenced here and never changes.
unsafe impl Sync for Address {}

/// Exports functions by the C ABI of `cuda.h` and lists them in `ENTRIES`.
///
/// A body evaluates to an [`Outcome`]. It runs inside `unsafe`: its caller vouches, as to the real driver,
/// that non-null pointers point to what the signature says. Null pointers and stale handles are found out.
/// A name in brackets after the arguments exports the function once more, with the per-thread default stream.
macro_rules! entries {
    ($(
        $(#[$meta:meta])*
        fn $name:ident($($argument:ident: $type:ty),* $(,)?) $([$per_thread:ident])? $body:block
    )*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the CUDA driver API.")]
            $(#[$meta])*
            ///
            /// # Safety
            /// As in the CUDA driver API: pointers are null or point to what their types say.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, unused_unsafe)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
                $crate::driver::entry::guard(
                    stringify!($name),
                    // SAFETY: the function's contract, passed on to the body.
                    || -> $crate::driver::entry::Outcome { unsafe { $body } },
                )
            }
            $crate::driver::entry::per_thread! {
                [$($per_thread)?] $name($($argument: $type),*)
            }
        )*
        /// The functions of this file, for `cuGetProcAddress`.
        pub(super) static ENTRIES: &[$crate::driver::entry::Entry] = &[
            $($crate::driver::entry::Entry {
                name: stringify!($name),
                address: $crate::driver::entry::Address($name as *const ()),
                per_thread: $crate::driver::entry::per_thread!([$($per_thread)?]),
            }),*
        ];
    };
}
pub(crate) use entries;

/// The variant of a function for per-thread default streams: the function, or its address.
macro_rules! per_thread {
    ([] $name:ident($($argument:ident: $type:ty),*)) => {};
    ([$variant:ident] $name:ident($($argument:ident: $type:ty),*)) => {
        #[doc = concat!("`", stringify!($name), "` where the default stream is the calling thread's own.")]
        ///
        /// # Safety
        /// As in the CUDA driver API: pointers are null or point to what their types say.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $variant($($argument: $type),*) -> u32 {
            // SAFETY: the function's contract, passed on.
            $crate::driver::entry::on_own_default_stream(|| unsafe { $name($($argument),*) })
        }
    };
    ([]) => { None };
    ([$variant:ident]) => { Some($crate::driver::entry::Address($variant as *const ())) };
}
pub(crate) use per_thread;

thread_local! {
    /// Set while a host function of a stream runs on this thread: it must not call the driver.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
    /// Set while a `_ptsz` or `_ptds` function runs on this thread.
    static OWN_DEFAULT_STREAM: Cell<bool> = const { Cell::new(false) };
}

/// Runs a driver function in which the null stream is the calling thread's own.
pub fn on_own_default_stream(call: impl FnOnce() -> u32) -> u32 {
    OWN_DEFAULT_STREAM.set(true);
    let code = call();
    OWN_DEFAULT_STREAM.set(false);
    code
}

/// Whether the null stream is the calling thread's own.
pub fn default_stream_is_own() -> bool {
    OWN_DEFAULT_STREAM.get()
}

/// Runs `body` for the exported function `name`: injected failures first, panics caught, errors as numbers.
pub fn guard(name: &'static str, body: impl FnOnce() -> Outcome) -> u32 {
    if IN_HOST_FUNCTION.get() && !name.starts_with("cuGet") {
        say(&format!(
            "{name} was called from a host function; host functions must not call CUDA"
        ));
        return Code::NOT_PERMITTED.0;
    }
    if let Some(code) = injected(name) {
        return code.0;
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code.0,
        Err(panic) => {
            let reason = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown reason");
            say(&format!(
                "{name} failed inside softcuda ({reason}); please report it"
            ));
            Code::UNKNOWN.0
        }
    }
}

/// Calls a host function of the program, during which this thread may not call the driver.
///
/// # Safety
/// `function` must be callable with `data`.
pub unsafe fn call_host(function: unsafe extern "C" fn(*mut std::ffi::c_void), data: usize) {
    IN_HOST_FUNCTION.set(true);
    // SAFETY: the program handed both over for this call.
    unsafe { function(data as *mut std::ffi::c_void) };
    IN_HOST_FUNCTION.set(false);
}

/// The error `SOFTCUDA_FAIL=FUNCTION:CODE[@N]` plants in this call of `name`, if it does.
fn injected(name: &'static str) -> Option<Code> {
    static CALLS: OnceLock<Mutex<HashMap<&'static str, u64>>> = OnceLock::new();
    let plan = settings::planned_calls();
    if plan.is_empty() {
        return None;
    }
    let mut calls = CALLS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let count = calls.entry(name).or_insert(0);
    *count += 1;
    plan.iter()
        .find(|failure| failure.function == name && failure.nth.is_none_or(|nth| nth == *count))
        .map(|failure| failure.code)
}

/// Prints one message of softcuda's own to standard error.
pub fn say(message: &str) {
    eprintln!("softcuda: {message}");
}

/// Stores `value` through an output pointer of the API; null is `INVALID_VALUE`.
///
/// # Safety
/// `target` must be null or valid for writes.
pub unsafe fn put<T>(target: *mut T, value: T) -> Outcome {
    if target.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and valid by this function's contract; C callers need not align it.
    unsafe { target.write_unaligned(value) };
    Ok(())
}

/// Stores `value` where the API allows a null pointer for "not wanted".
///
/// # Safety
/// `target` must be null or valid for writes.
pub unsafe fn put_if_wanted<T>(target: *mut T, value: T) {
    if !target.is_null() {
        // SAFETY: not null, and valid by this function's contract.
        unsafe { target.write_unaligned(value) };
    }
}

/// Reads a parameter structure; null is `INVALID_VALUE`.
///
/// # Safety
/// `source` must be null or valid for reads of `T`.
pub unsafe fn take<T: Copy>(source: *const T) -> Result<T, Code> {
    if source.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, and valid by this function's contract.
    Ok(unsafe { source.read_unaligned() })
}

/// Reads a C string; null or invalid UTF-8 is `INVALID_VALUE`.
///
/// # Safety
/// `text` must be null or a NUL-terminated string.
pub unsafe fn text(text: *const std::ffi::c_char) -> Result<String, Code> {
    if text.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: not null, NUL-terminated by this function's contract.
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    text.to_str()
        .map(str::to_owned)
        .map_err(|_| Code::INVALID_VALUE)
}

/// Copies `value` and a NUL into a buffer of `capacity` bytes, cut to fit.
///
/// # Safety
/// `buffer` must be null or valid for writes of `capacity` bytes.
pub unsafe fn put_text(buffer: *mut std::ffi::c_char, capacity: i32, value: &str) -> Outcome {
    let capacity = usize::try_from(capacity).map_err(|_| Code::INVALID_VALUE)?;
    if buffer.is_null() || capacity == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let length = value.len().min(capacity - 1);
    // SAFETY: `length + 1 <= capacity` bytes of a valid buffer.
    unsafe {
        std::ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast(), length);
        buffer.add(length).write(0);
    }
    Ok(())
}
