//! Several PTX texts as one, which is what linking comes to here: one header, each definition once. Names that two
//! texts define and no text declares `.extern` are each text's own, and are told apart by a suffix.

use std::collections::{HashMap, HashSet};

use crate::ptx;

/// Joins PTX texts.
///
/// # Errors
/// A sentence: a text that isn't PTX, or a kernel or external name that two of them define.
pub fn join(inputs: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let mut texts = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let text = std::str::from_utf8(input).map_err(|_| {
            format!("input {index} is not PTX text; only that can be linked with others")
        })?;
        texts.push(text);
    }
    let mut modules = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        modules.push(ptx::parse(text).map_err(|error| format!("input {index}, {error}"))?);
    }
    let mut wanted = HashSet::new();
    let mut defined: HashMap<&str, usize> = HashMap::new();
    for module in &modules {
        wanted.extend(
            module
                .functions
                .iter()
                .filter(|f| f.entry || f.body.is_none())
                .map(|f| f.name),
        );
        wanted.extend(
            module
                .variables
                .iter()
                .filter(|v| v.external)
                .map(|v| v.name),
        );
    }
    let (mut joined, mut files) = (String::new(), 0);
    for (index, (module, text)) in modules.iter().zip(&texts).enumerate() {
        let functions = module
            .functions
            .iter()
            .filter(|f| f.body.is_some())
            .map(|f| f.name);
        let variables = module
            .variables
            .iter()
            .filter(|v| !v.external)
            .map(|v| v.name);
        let mut own = HashSet::new();
        for name in functions.chain(variables) {
            match defined.insert(name, index) {
                Some(other) if other != index && wanted.contains(name) => {
                    return Err(format!("inputs {other} and {index} both define `{name}`"));
                }
                Some(other) if other != index => drop(own.insert(name)),
                _ => {}
            }
        }
        append(&mut joined, text, index, &own, files);
        files += module.files.iter().map(|file| file.0).max().unwrap_or(0) + 1;
    }
    let (major, minor) = modules.iter().map(|m| m.version).max().unwrap_or((7, 0));
    let newest = modules
        .iter()
        .max_by_key(|m| m.target.first().map_or(0, |name| number(name)));
    let target = newest.and_then(|m| m.target.first()).unwrap_or(&"sm_52");
    let header = format!(".version {major}.{minor}\n.target {target}\n.address_size 64\n");
    Ok((header + &joined).into_bytes())
}

/// 90 of `sm_90a`.
fn number(target: &str) -> u32 {
    let digits = target.trim_start_matches("sm_");
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// Appends a text without its header, with the names of `own` and the numbers of its files changed.
fn append(joined: &mut String, text: &str, index: usize, own: &HashSet<&str>, files: u32) {
    for line in text.lines() {
        let code = line.trim_start();
        if [".version", ".target", ".address_size"]
            .iter()
            .any(|word| code.starts_with(word))
        {
            joined.push('\n');
            continue;
        }
        let mut words = code.splitn(3, [' ', '\t']);
        if let (Some(word @ (".file" | ".loc")), Some(file), rest) =
            (words.next(), words.next(), words.next())
            && let Ok(file) = file.parse::<u32>()
        {
            *joined += &format!("{word} {} {}\n", file + files, rest.unwrap_or(""));
            continue;
        }
        rename(joined, line, index, own);
        joined.push('\n');
    }
}

/// Appends a line in which the names of `own` have a suffix.
fn rename(joined: &mut String, line: &str, index: usize, own: &HashSet<&str>) {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%');
    let mut rest = line;
    while let Some(start) = rest.find(part) {
        let length = rest[start..]
            .find(|c| !part(c))
            .unwrap_or(rest.len() - start);
        let word = &rest[start..start + length];
        joined.push_str(&rest[..start + length]);
        if own.contains(word) {
            *joined += &format!("$link{index}");
        }
        rest = &rest[start + length..];
    }
    joined.push_str(rest);
}
