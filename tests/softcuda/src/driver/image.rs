//! Images that programs load: PTX text, and the PTX inside a cubin.
//!
//! The machine runs PTX. A cubin is accepted when it carries its PTX, as those that NVRTC and ptxas make
//! with `-lineinfo` or `-G` do (section `.nv_debug_ptx_txt`); so a program that compiles to a cubin for an
//! older driver runs here unchanged but for that flag. Other cubins and fat binaries are refused.

use super::entry::say;
use super::errors::Code;

pub(super) const FATBIN: &str = "a fat binary cannot be loaded; load PTX text, or a cubin that carries its PTX \
                      (compiled with -lineinfo)";

/// The most bytes of an image.
const LARGEST_IMAGE: u64 = 1 << 30;

pub(super) fn read(path: &str) -> Result<Vec<u8>, Code> {
    std::fs::read(path).map_err(|reason| {
        say(&format!(
            "{path}: {reason}; expected a file of PTX or a cubin"
        ));
        Code::FILE_NOT_FOUND
    })
}

/// A copy of the image at `image`: an ELF file by its own header, else text up to its NUL.
///
/// # Safety
/// `image` must be null or point to a whole image.
pub(super) unsafe fn image_at(image: *const u8) -> Result<Vec<u8>, Code> {
    if image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let starts_with = |magic: &[u8]| {
        // SAFETY: a byte is only read after those before it matched, so within the image.
        magic
            .iter()
            .enumerate()
            .all(|(index, &byte)| unsafe { *image.add(index) } == byte)
    };
    if starts_with(b"\x7fELF") {
        // SAFETY: an ELF file begins with a header of 64 bytes, which tells where its last table ends.
        let header = unsafe { std::slice::from_raw_parts(image, 64) };
        let end = elf_end(header)
            .filter(|&end| end <= LARGEST_IMAGE)
            .ok_or(Code::INVALID_IMAGE)?;
        // SAFETY: the file's own word for its size.
        return Ok(unsafe { std::slice::from_raw_parts(image, end as usize) }.to_vec());
    }
    if starts_with(&FATBIN_MAGIC) || starts_with(&FATBIN_WRAPPER_MAGIC) {
        say(FATBIN);
        return Err(Code::NO_BINARY_FOR_GPU);
    }
    // SAFETY: text images end in NUL, says the interface.
    Ok(unsafe { std::ffi::CStr::from_ptr(image.cast()) }
        .to_bytes()
        .to_vec())
}

/// First bytes of a fat binary, and of the structure that points to one.
const FATBIN_MAGIC: [u8; 4] = [0x50, 0xed, 0x55, 0xba];
const FATBIN_WRAPPER_MAGIC: [u8; 4] = [0xb1, 0x43, 0x62, 0x46];

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let mut value = [0; 8];
    value[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    Some(u64::from_le_bytes(value))
}

/// Where an ELF file's section or program header table ends, whichever is later: its size.
fn elf_end(header: &[u8]) -> Option<u64> {
    let table = |offset, entry, count| {
        let bytes = number(header, entry, 2)? * number(header, count, 2)?;
        number(header, offset, 8)?.checked_add(bytes)
    };
    Some(
        table(0x28, 0x3a, 0x3c)?
            .max(table(0x20, 0x36, 0x38)?)
            .max(64),
    )
}

/// The PTX that a cubin carries, lines again ended by newlines.
///
/// # Errors
/// A sentence that says what is missing and how to get it.
pub(super) fn ptx_of_cubin(cubin: &[u8]) -> Result<Vec<u8>, String> {
    let damaged = || "the cubin's section table is damaged".to_owned();
    let section = |index: u64| -> Option<(u64, usize, usize)> {
        let at = number(cubin, 0x28, 8)?.checked_add(index.checked_mul(64)?)?;
        let at = usize::try_from(at).ok()?;
        let field = |offset, width| number(cubin, at.checked_add(offset)?, width);
        Some((
            field(0, 4)?,
            field(0x18, 8)?.try_into().ok()?,
            field(0x20, 8)?.try_into().ok()?,
        ))
    };
    let count = number(cubin, 0x3c, 2).ok_or_else(damaged)?;
    let names = number(cubin, 0x3e, 2)
        .and_then(section)
        .ok_or_else(damaged)?
        .1;
    for index in 0..count {
        let (name, offset, bytes) = section(index).ok_or_else(damaged)?;
        let name = names.saturating_add(name as usize);
        if !cubin
            .get(name..)
            .is_some_and(|rest| rest.starts_with(b".nv_debug_ptx_txt\0"))
        {
            continue;
        }
        let text = offset
            .checked_add(bytes)
            .and_then(|end| cubin.get(offset..end))
            .ok_or_else(damaged)?;
        return Ok(text
            .iter()
            .map(|&byte| if byte == 0 { b'\n' } else { byte })
            .collect());
    }
    Err("the cubin holds machine code only, which softcuda cannot run; compile it with -lineinfo, so that it \
         carries its PTX, or load PTX"
        .to_owned())
}

/// The number of the first `.target sm_N` in PTX text.
pub(super) fn target_of(ptx: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(ptx);
    let (_, rest) = text.split_once(".target")?;
    let digits = rest.trim_start().strip_prefix("sm_")?;
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_cubins_are_refused_with_a_sentence() {
        for length in [0, 4, 63, 64] {
            let mut cubin = vec![0xff; length];
            cubin
                .iter_mut()
                .zip(b"\x7fELF")
                .for_each(|(byte, magic)| *byte = *magic);
            assert!(ptx_of_cubin(&cubin).is_err());
        }
    }

    #[test]
    fn the_target_of_ptx_is_its_number() {
        assert_eq!(
            target_of(b".version 8.0\n.target sm_90a, debug\n"),
            Some(90)
        );
        assert_eq!(target_of(b".target compute_90"), None);
    }
}
