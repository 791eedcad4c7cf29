//! Functions that the driver provides to kernels: `printf`, `assert`, `malloc`, `free`.

use super::block::BlockState;
use super::warp::Warp;
use crate::check::{Fault, FaultKind};
use crate::lower::inst::Callee;

/// Longest string that `%s` prints or an assertion names.
const LONGEST: u64 = 4096;

impl Warp {
    /// Runs the built-in function of a call site for the lanes of a fragment.
    pub(super) fn built_in(
        &mut self,
        block: &mut BlockState,
        index: usize,
        site: u32,
    ) -> Result<(), Box<Fault>> {
        let kernel = block.env.kernel;
        let fragment = self.fragments[index];
        let frame = &self.frames[fragment.frame as usize];
        let (function, base) = (frame.function, u64::from(frame.local_base));
        let call = &kernel.program[function as usize].calls[site as usize];
        for lane in (0..32).filter(|lane| fragment.mask >> lane & 1 == 1) {
            let argument = |warp: &mut Warp, number: usize| -> u64 {
                let Some(&(offset, bytes)) = call.arguments.get(number) else {
                    return 0;
                };
                let bytes = bytes.min(8) as usize;
                let mut value = [0; 8];
                if let Some(from) = warp.local.get(lane, base + u64::from(offset), bytes) {
                    value[..bytes].copy_from_slice(from);
                }
                u64::from_le_bytes(value)
            };
            let result = match call.callee {
                Callee::Printf => {
                    let format = argument(self, 0);
                    let arguments = argument(self, 1);
                    let text = self.text(block, lane, format);
                    self.print(block, lane, &text, arguments)
                }
                Callee::AssertFail => {
                    let [message, file] = [0, 1].map(|n| {
                        let address = argument(self, n);
                        String::from_utf8_lossy(&self.text(block, lane, address)).into_owned()
                    });
                    let line = argument(self, 2) as u32;
                    let text = format!("{file}:{line}: assertion `{message}` failed");
                    let kind = FaultKind::Assert;
                    return Err(block.fault(kind, self, function, fragment.pc, lane as u32, &text));
                }
                Callee::Malloc => {
                    let bytes = argument(self, 0);
                    block
                        .env
                        .machine
                        .memory
                        .allocate(bytes, "device malloc")
                        .unwrap_or(0)
                }
                Callee::Free => {
                    let address = argument(self, 0);
                    if address != 0
                        && let Err(error) = block.env.machine.memory.free(address)
                    {
                        return Err(block.fault(
                            FaultKind::IllegalAddress,
                            self,
                            function,
                            fragment.pc,
                            lane as u32,
                            &error.to_string(),
                        ));
                    }
                    block.tally.forget();
                    0
                }
                _ => 0,
            };
            if let Some(&(offset, bytes)) = call.results.first() {
                let (offset, bytes) = (base + u64::from(offset), bytes.min(8) as usize);
                if let Some(to) = self.local.get(lane, offset, bytes) {
                    to.copy_from_slice(&result.to_le_bytes()[..bytes]);
                    self.local.mark(lane, offset, bytes);
                }
            }
        }
        Ok(())
    }

    /// Reads memory at a generic address, if it is there.
    fn peek(&mut self, block: &mut BlockState, lane: usize, address: u64, out: &mut [u8]) -> bool {
        use super::block::{LOCAL_BASE, SHARED_BASE, WINDOW};
        if (LOCAL_BASE..LOCAL_BASE + WINDOW).contains(&address) {
            return match self.local.get(lane, address - LOCAL_BASE, out.len()) {
                Some(bytes) => {
                    out.copy_from_slice(bytes);
                    true
                }
                None => false,
            };
        }
        let pointer = if (SHARED_BASE..SHARED_BASE + WINDOW).contains(&address) {
            let offset = address - SHARED_BASE;
            if offset + out.len() as u64 > u64::from(block.env.shared_bytes) {
                return false;
            }
            block
                .shared_pointer()
                .wrapping_add(offset as usize)
                .cast_const()
        } else {
            match block.env.machine.memory.slice(address, out.len() as u64) {
                Ok(pointer) => pointer.cast_const(),
                Err(_) => return false,
            }
        };
        // SAFETY: the range was checked to be inside shared memory or one live allocation.
        unsafe { std::ptr::copy_nonoverlapping(pointer, out.as_mut_ptr(), out.len()) };
        true
    }

    /// The NUL-terminated string at an address.
    fn text(&mut self, block: &mut BlockState, lane: usize, address: u64) -> Vec<u8> {
        let mut text = Vec::new();
        let mut byte = [0];
        while (text.len() as u64) < LONGEST
            && self.peek(block, lane, address + text.len() as u64, &mut byte)
            && byte[0] != 0
        {
            text.push(byte[0]);
        }
        text
    }

    /// `vprintf`: the arguments lie at `arguments`, each aligned to its size. Returns their number.
    fn print(&mut self, block: &mut BlockState, lane: usize, format: &[u8], arguments: u64) -> u64 {
        let mut at = arguments;
        let mut count = 0;
        let mut rest = format;
        while let Some(percent) = rest.iter().position(|&b| b == b'%') {
            block.output.extend_from_slice(&rest[..percent]);
            rest = &rest[percent + 1..];
            let end = rest
                .iter()
                .position(|b| b.is_ascii_alphabetic() && !b"hlLqjzt".contains(b) || *b == b'%');
            let Some(end) = end else {
                block.output.push(b'%');
                break;
            };
            let (spec, conversion) = (&rest[..end], rest[end]);
            rest = &rest[end + 1..];
            if conversion == b'%' {
                block.output.push(b'%');
                continue;
            }
            let long = spec.iter().any(|b| b"ljztq".contains(b));
            let mut next = |warp: &mut Warp, block: &mut BlockState, bytes: u64| -> u64 {
                at = at.next_multiple_of(bytes);
                let mut value = [0; 8];
                warp.peek(block, lane, at, &mut value[..bytes as usize]);
                at += bytes;
                u64::from_le_bytes(value)
            };
            let mut flags = Flags::parse(spec, |_| next(self, block, 4) as i32);
            let text = match conversion {
                b'd' | b'i' => {
                    let value = if long {
                        next(self, block, 8) as i64
                    } else {
                        i64::from(next(self, block, 4) as i32)
                    };
                    flags.integer(value.unsigned_abs().to_string(), value < 0)
                }
                b'u' | b'x' | b'X' | b'o' => {
                    let value = next(self, block, if long { 8 } else { 4 });
                    let text = match conversion {
                        b'u' => value.to_string(),
                        b'x' => format!("{value:x}"),
                        b'X' => format!("{value:X}"),
                        _ => format!("{value:o}"),
                    };
                    let prefix = match (flags.alternate && value != 0, conversion) {
                        (true, b'x') => "0x",
                        (true, b'X') => "0X",
                        (true, b'o') => "0",
                        _ => "",
                    };
                    flags.unsigned(prefix, text)
                }
                b'c' => {
                    let value = next(self, block, 4) as u8;
                    flags.pad(String::from_utf8_lossy(&[value]).into_owned())
                }
                // As the C library of Linux, which formats it for the real driver.
                b'p' => {
                    let address = next(self, block, 8);
                    flags.pad(if address == 0 {
                        "(nil)".to_string()
                    } else {
                        format!("{address:#x}")
                    })
                }
                b's' => {
                    let address = next(self, block, 8);
                    let text = self.text(block, lane, address);
                    let mut text = String::from_utf8_lossy(&text).into_owned();
                    if let Some(precision) = flags.precision {
                        text = text.chars().take(precision).collect();
                    }
                    flags.pad(text)
                }
                b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                    let value = f64::from_bits(next(self, block, 8));
                    let text = float_text(value.abs(), conversion, flags.precision);
                    flags.zero &= value.is_finite();
                    flags.integer(text, value.is_sign_negative() && !value.is_nan())
                }
                other => format!("%{}", char::from(other)),
            };
            count += 1;
            block.output.extend_from_slice(text.as_bytes());
        }
        block.output.extend_from_slice(rest);
        count
    }
}

/// A magnitude as C prints it.
fn float_text(value: f64, conversion: u8, precision: Option<usize>) -> String {
    let upper = conversion.is_ascii_uppercase();
    let precision = precision.unwrap_or(6).min(512);
    let text = if value.is_nan() {
        "nan".to_string()
    } else if value.is_infinite() {
        "inf".to_string()
    } else {
        match conversion.to_ascii_lowercase() {
            b'e' => exponent_text(value, precision),
            b'g' => {
                let precision = precision.max(1);
                let scientific = format!("{value:.*e}", precision - 1);
                let exponent: i32 = scientific
                    .split_once('e')
                    .and_then(|(_, exponent)| exponent.parse().ok())
                    .unwrap_or(0);
                let trim = |text: String| match text.contains('.') {
                    true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
                    false => text,
                };
                if exponent < -4 || exponent >= precision as i32 {
                    let text = exponent_text(value, precision - 1);
                    match text.split_once('e') {
                        Some((mantissa, exponent)) => {
                            format!("{}e{exponent}", trim(mantissa.to_string()))
                        }
                        None => text,
                    }
                } else {
                    trim(format!(
                        "{value:.*}",
                        (precision as i32 - 1 - exponent) as usize
                    ))
                }
            }
            b'a' => {
                let bits = value.to_bits();
                let exponent = (bits >> 52) as i32;
                let digits = format!("{:013x}", bits & ((1 << 52) - 1));
                let digits = digits.trim_end_matches('0');
                let point = if digits.is_empty() { "" } else { "." };
                match (exponent, value == 0.0) {
                    (_, true) => "0x0p+0".to_string(),
                    (0, _) => format!("0x0{point}{digits}p-1022"),
                    _ => format!("0x1{point}{digits}p{:+}", exponent - 1023),
                }
            }
            _ => format!("{value:.precision$}"),
        }
    };
    if upper { text.to_uppercase() } else { text }
}

/// `1.5e+02`, as C writes it.
fn exponent_text(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        None => text,
    }
}

/// Flags, width and precision of a conversion.
struct Flags {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

impl Flags {
    fn parse(spec: &[u8], mut star: impl FnMut(()) -> i32) -> Flags {
        let mut flags = Flags {
            left: false,
            plus: false,
            space: false,
            alternate: false,
            zero: false,
            width: 0,
            precision: None,
        };
        let mut in_precision = false;
        let mut started = false;
        for &byte in spec {
            match byte {
                b'-' if !started => flags.left = true,
                b'+' if !started => flags.plus = true,
                b' ' if !started => flags.space = true,
                b'#' if !started => flags.alternate = true,
                b'0' if !started => flags.zero = true,
                b'.' => (in_precision, flags.precision) = (true, Some(0)),
                b'*' => {
                    started = true;
                    let value = star(());
                    if in_precision {
                        flags.precision = usize::try_from(value).ok();
                    } else {
                        flags.left |= value < 0;
                        flags.width = value.unsigned_abs().min(1024) as usize;
                    }
                }
                b'0'..=b'9' => {
                    started = true;
                    let digit = usize::from(byte - b'0');
                    let number = if in_precision {
                        flags.precision.get_or_insert(0)
                    } else {
                        &mut flags.width
                    };
                    *number = (*number * 10 + digit).min(1024);
                }
                _ => {}
            }
        }
        flags
    }

    fn pad(&self, text: String) -> String {
        let width = self.width;
        if self.left {
            format!("{text:<width$}")
        } else {
            format!("{text:>width$}")
        }
    }

    fn integer(&self, digits: String, negative: bool) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, _, _) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        };
        self.unsigned(sign, digits)
    }

    fn unsigned(&self, prefix: &str, digits: String) -> String {
        let length = prefix.len() + digits.len();
        if self.zero && !self.left && length < self.width {
            return format!("{prefix}{}{digits}", "0".repeat(self.width - length));
        }
        self.pad(format!("{prefix}{digits}"))
    }
}
