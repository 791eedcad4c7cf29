//! Reads the Python text of a DARTS genotype, by recursive descent over its small grammar:
//!
//! ```text
//! text   = [ name "=" ] "Genotype" "(" field { "," field } [ "," ] ")"
//! field  = ( "normal" | "reduce" ) "=" "[" { pair "," } "]"
//!        | ( "normal_concat" | "reduce_concat" ) "=" states
//! pair   = "(" string "," number ")"
//! states = "range" "(" number "," number ")" | "[" { number "," } "]"
//! ```
//!
//! White space may stand between any two tokens; the comma before a closing bracket is optional.

use anyhow::{Result, anyhow, bail};

use super::super::{GenotypeOp, quoted};
use super::darts::{DartsGenotype, MOST_NODES};

/// Reads the whole text; does not check that the edges exist.
pub(super) fn parse(text: &str) -> Result<DartsGenotype> {
    let mut scanner = Scanner { text, rest: text };
    let mut name = scanner.name("`Genotype(`")?;
    if scanner.accept('=') {
        name = scanner.name("`Genotype(`")?;
    }
    if name != "Genotype" {
        bail!("expected `Genotype(`, found {}", quoted(name));
    }
    let genotype = fields(&mut scanner)?;
    if !scanner.at_end() {
        return Err(scanner.unexpected("the end of the text"));
    }
    Ok(genotype)
}

fn fields(scanner: &mut Scanner<'_>) -> Result<DartsGenotype> {
    let (mut normal, mut reduce) = (None, None);
    let (mut normal_concat, mut reduce_concat) = (None, None);
    scanner.sequence('(', ')', |scanner| {
        let field = scanner.name("a field of the genotype")?;
        scanner.expect('=')?;
        let repeated = match field {
            "normal" => normal.replace(edges(scanner)?).is_some(),
            "reduce" => reduce.replace(edges(scanner)?).is_some(),
            "normal_concat" => normal_concat.replace(states(scanner)?).is_some(),
            "reduce_concat" => reduce_concat.replace(states(scanner)?).is_some(),
            _ => bail!(
                "unknown field {} (the fields are normal, normal_concat, reduce, reduce_concat)",
                quoted(field)
            ),
        };
        if repeated {
            bail!("field `{field}` stands twice, expected it once");
        }
        Ok(())
    })?;
    let missing = |field: &str| anyhow!("field `{field}` is missing");
    Ok(DartsGenotype {
        normal: normal.ok_or_else(|| missing("normal"))?,
        normal_concat: normal_concat.ok_or_else(|| missing("normal_concat"))?,
        reduce: reduce.ok_or_else(|| missing("reduce"))?,
        reduce_concat: reduce_concat.ok_or_else(|| missing("reduce_concat"))?,
    })
}

fn edges(scanner: &mut Scanner<'_>) -> Result<Vec<(GenotypeOp, usize)>> {
    let mut edges = Vec::new();
    scanner.sequence('[', ']', |scanner| {
        scanner.expect('(')?;
        let op: GenotypeOp = scanner.string()?.parse()?;
        scanner.expect(',')?;
        let from = scanner.number()?;
        scanner.expect(')')?;
        edges.push((op, from));
        Ok(())
    })?;
    Ok(edges)
}

fn states(scanner: &mut Scanner<'_>) -> Result<Vec<usize>> {
    let mut states = Vec::new();
    if scanner.peek() == Some('[') {
        scanner.sequence('[', ']', |scanner| {
            states.push(scanner.number()?);
            Ok(())
        })?;
        return Ok(states);
    }
    let word = scanner.name("`range(` or `[`")?;
    if word != "range" {
        bail!("expected `range(` or `[`, found {}", quoted(word));
    }
    scanner.expect('(')?;
    let first = scanner.number()?;
    scanner.expect(',')?;
    let end = scanner.number()?;
    scanner.expect(')')?;
    // One state more than a cell can concatenate is enough for the check of the genotype to name
    // what is wrong, however long the range claims to be.
    Ok((first..end).take(MOST_NODES + 1).collect())
}

/// The text and what is left of it.
struct Scanner<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    /// Next character after white space.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<()> {
        if self.accept(wanted) {
            return Ok(());
        }
        Err(self.unexpected(&format!("`{wanted}`")))
    }

    /// Items between brackets, separated by commas, one allowed after the last.
    fn sequence(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.expect(open)?;
        loop {
            if self.accept(close) {
                return Ok(());
            }
            item(self)?;
            if !self.accept(',') {
                if self.accept(close) {
                    return Ok(());
                }
                return Err(self.unexpected(&format!("`,` or `{close}`")));
            }
        }
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    fn name(&mut self, expected: &str) -> Result<&'a str> {
        match self.peek() {
            Some(first) if first.is_ascii_alphabetic() || first == '_' => {
                Ok(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_'))
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    fn number(&mut self) -> Result<usize> {
        if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
            return Err(self.unexpected("a state number"));
        }
        let digits = self.take_while(|c| c.is_ascii_digit());
        match digits.parse() {
            Ok(number) => Ok(number),
            Err(_) => bail!("state number {} is too large", quoted(digits)),
        }
    }

    fn string(&mut self) -> Result<&'a str> {
        let quote = match self.peek() {
            Some(quote @ ('\'' | '"')) => quote,
            _ => return Err(self.unexpected("an op name in quotes")),
        };
        let body = &self.rest[1..];
        match body.split_once(quote) {
            Some((string, rest)) => {
                self.rest = rest;
                Ok(string)
            }
            None => Err(self.unexpected(&format!("an op name closed by `{quote}`"))),
        }
    }

    fn unexpected(&mut self, expected: &str) -> anyhow::Error {
        let found = match self.peek() {
            Some(_) => quoted(self.rest),
            None => "the end of the text".to_owned(),
        };
        let before = &self.text[..self.text.len() - self.rest.len()];
        let character = before.chars().count() + 1;
        anyhow!("expected {expected} at character {character}, found {found}")
    }
}
