//! The JIT's options and its linker. "Linking" gives PTX back as the image to load: that of the one input, or of
//! several joined.

use std::ffi::{c_char, c_void};

use super::entry::{Handle, Outcome, entries, put, say, text};
use super::errors::Code;
use super::state::current;

/// The log buffers of a JIT call; every other option changes nothing here.
#[derive(Default)]
pub struct Jit {
    info: Log,
    error: Log,
}

/// A log buffer and the option value that gets the length written.
#[derive(Default)]
struct Log {
    buffer: usize,
    capacity: usize,
    length: usize,
}

/// What is being linked.
pub struct Link {
    inputs: Vec<Vec<u8>>,
    /// The image, which lives as long as the link.
    image: Vec<u8>,
}

/// `CU_JIT_INFO_LOG_BUFFER` and its size, `CU_JIT_ERROR_LOG_BUFFER` and its size; the number of options.
const INFO_LOG: u32 = 3;
const INFO_LOG_SIZE: u32 = 4;
const ERROR_LOG: u32 = 5;
const ERROR_LOG_SIZE: u32 = 6;
const OPTIONS: u32 = 64;

/// `CU_JIT_INPUT_PTX`, `CU_JIT_INPUT_CUBIN`.
const PTX: u32 = 1;
const CUBIN: u32 = 0;

impl Jit {
    /// Reads the options of a JIT call.
    ///
    /// # Safety
    /// Both arrays must be null or hold `count` elements, and the log buffers be as large as said.
    pub unsafe fn read(count: u32, options: *const u32, values: *mut usize) -> Result<Jit, Code> {
        let mut jit = Jit::default();
        if count == 0 {
            return Ok(jit);
        }
        if options.is_null() || values.is_null() || count > OPTIONS {
            return Err(Code::INVALID_VALUE);
        }
        for index in 0..count as usize {
            // SAFETY: `index < count`, this function's contract.
            let (option, slot) =
                unsafe { (options.add(index).read_unaligned(), values.add(index)) };
            // SAFETY: as above.
            let value = unsafe { slot.read_unaligned() };
            match option {
                INFO_LOG => jit.info.buffer = value,
                // The value is an unsigned int in the low half of a pointer.
                INFO_LOG_SIZE => {
                    (jit.info.capacity, jit.info.length) = (value as u32 as usize, slot as usize)
                }
                ERROR_LOG => jit.error.buffer = value,
                ERROR_LOG_SIZE => {
                    (jit.error.capacity, jit.error.length) = (value as u32 as usize, slot as usize);
                }
                option if option < OPTIONS => {}
                _ => return Err(Code::INVALID_VALUE),
            }
        }
        Ok(jit)
    }

    /// Fills the logs: `error` into the one for errors, nothing into the other.
    ///
    /// # Safety
    /// As [`Jit::read`], whose arrays must still be there.
    pub unsafe fn finish(&mut self, error: &str) {
        // SAFETY: this function's contract.
        unsafe {
            self.info.write("");
            self.error.write(error);
        }
    }
}

impl Log {
    /// # Safety
    /// The buffer must be null or as large as said; the slot null or writable.
    unsafe fn write(&self, message: &str) {
        let mut written = 0;
        if self.buffer != 0 && self.capacity > 0 {
            written = message.len().min(self.capacity - 1);
            // SAFETY: `written + 1 <= capacity` bytes of a buffer of that size.
            unsafe {
                let buffer = self.buffer as *mut u8;
                std::ptr::copy_nonoverlapping(message.as_ptr(), buffer, written);
                buffer.add(written).write(0);
            }
        }
        if self.length != 0 {
            // SAFETY: the caller's array of option values.
            unsafe { (self.length as *mut usize).write_unaligned(written) };
        }
    }
}

entries! {
    fn cuLinkCreate(count: u32, options: *const u32, values: *mut usize, state: *mut Handle) {
        create(count, options, values, state)
    }

    fn cuLinkCreate_v2(count: u32, options: *const u32, values: *mut usize, state: *mut Handle) {
        create(count, options, values, state)
    }

    fn cuLinkAddData(
        state: Handle,
        kind: u32,
        data: *const u8,
        size: usize,
        _name: *const c_char,
        _count: u32,
        _options: *const u32,
        _values: *mut usize,
    ) {
        add_data(state, kind, data, size)
    }

    fn cuLinkAddData_v2(
        state: Handle,
        kind: u32,
        data: *const u8,
        size: usize,
        _name: *const c_char,
        _count: u32,
        _options: *const u32,
        _values: *mut usize,
    ) {
        add_data(state, kind, data, size)
    }

    fn cuLinkAddFile(
        state: Handle,
        kind: u32,
        path: *const c_char,
        _count: u32,
        _options: *const u32,
        _values: *mut usize,
    ) {
        add_file(state, kind, path)
    }

    fn cuLinkAddFile_v2(
        state: Handle,
        kind: u32,
        path: *const c_char,
        _count: u32,
        _options: *const u32,
        _values: *mut usize,
    ) {
        add_file(state, kind, path)
    }

    fn cuLinkComplete(state: Handle, image: *mut *const c_void, bytes: *mut usize) {
        let (mut driver, _) = current()?;
        let link = driver.links.get_mut(state)?;
        match link.inputs.len() {
            0 => return Err(Code::INVALID_VALUE),
            1 => link.image = link.inputs[0].clone(),
            _ => {
                link.image = super::join::join(&link.inputs).map_err(|sentence| {
                    say(&format!("cuLinkComplete: {sentence}"));
                    Code::INVALID_PTX
                })?;
            }
        }
        link.image.push(0);
        put(image, link.image.as_ptr().cast())?;
        super::entry::put_if_wanted(bytes, link.image.len());
        Ok(())
    }

    fn cuLinkDestroy(state: Handle) {
        let (mut driver, _) = current()?;
        driver.links.remove(state).map(drop)
    }
}

/// # Safety
/// As [`Jit::read`]; `state` must be null or writable.
unsafe fn create(
    count: u32,
    options: *const u32,
    values: *mut usize,
    state: *mut Handle,
) -> Outcome {
    let (mut driver, _) = current()?;
    // SAFETY: this function's contract.
    unsafe {
        Jit::read(count, options, values)?;
        if state.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let handle = driver.links.add(Link {
            inputs: Vec::new(),
            image: Vec::new(),
        });
        put(state, handle)
    }
}

/// # Safety
/// `data` must be null or hold `size` bytes.
unsafe fn add_data(state: Handle, kind: u32, data: *const u8, size: usize) -> Outcome {
    if data.is_null() || size == 0 {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: this function's contract.
    let input = unsafe { std::slice::from_raw_parts(data, size) };
    add(state, kind, input.to_vec())
}

/// # Safety
/// `path` must be null or a string.
unsafe fn add_file(state: Handle, kind: u32, path: *const c_char) -> Outcome {
    // SAFETY: this function's contract.
    let path = unsafe { text(path)? };
    let input = std::fs::read(&path).map_err(|reason| {
        say(&format!("{path}: {reason}; expected a file to link"));
        Code::FILE_NOT_FOUND
    })?;
    add(state, kind, input)
}

fn add(state: Handle, kind: u32, mut input: Vec<u8>) -> Outcome {
    let (mut driver, _) = current()?;
    let link = driver.links.get_mut(state)?;
    if !matches!(kind, PTX | CUBIN) {
        return super::unsupported::refuse("linking of anything but PTX and cubins");
    }
    // PTX may come with its NUL; the image gets one of its own.
    while input.last() == Some(&0) && kind == PTX {
        input.pop();
    }
    link.inputs.push(input);
    Ok(())
}
