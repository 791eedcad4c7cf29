//! Builds the syntax tree: module scope, functions, statements, operands.

use super::SyntaxError;
use super::ast::*;
use super::lexer::{Lexer, Token};

/// Nested `{ }` of statements, initialisers and operands, at most.
const MAX_DEPTH: u32 = 64;
/// Elements of an initialiser, at most: a module's variables have to fit into constant or device memory.
const MAX_INIT: usize = 1 << 26;

type Result<T> = std::result::Result<T, SyntaxError>;

/// Parses a module.
///
/// # Errors
/// The first place where the text isn't PTX.
pub fn parse(text: &str) -> Result<Module<'_>> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        depth: 0,
    };
    parser.module()
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(SyntaxError {
            line: self.lexer.line(),
            message: message.into(),
        })
    }

    fn next(&mut self) -> Result<Token<'a>> {
        self.lexer.advance()
    }

    fn peek(&self) -> Result<Token<'a>> {
        self.lexer.clone().advance()
    }

    /// Consumes `mark` if it is next.
    fn eat(&mut self, mark: u8) -> Result<bool> {
        let mut ahead = self.lexer.clone();
        let found = ahead.advance()? == Token::Mark(mark);
        if found {
            self.lexer = ahead;
        }
        Ok(found)
    }

    fn expect(&mut self, mark: u8) -> Result<()> {
        match self.next()? {
            Token::Mark(found) if found == mark => Ok(()),
            found => self.error(format!("expected `{}`, found {found}", char::from(mark))),
        }
    }

    fn word(&mut self, what: &str) -> Result<&'a str> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            found => self.error(format!("expected {what}, found {found}")),
        }
    }

    fn int(&mut self) -> Result<u64> {
        let negative = self.eat(b'-')?;
        match self.next()? {
            Token::Int(value) if negative => Ok(value.wrapping_neg()),
            Token::Int(value) => Ok(value),
            found => self.error(format!("expected an integer, found {found}")),
        }
    }

    fn small(&mut self) -> Result<u32> {
        let value = self.int()?;
        match u32::try_from(value) {
            Ok(value) => Ok(value),
            Err(_) => self.error(format!("expected a 32-bit number, found `{value}`")),
        }
    }

    /// Runs `f` one level deeper.
    fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return self.error(format!("braces nest more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    fn module(&mut self) -> Result<Module<'a>> {
        let mut module = Module::default();
        let mut external = false;
        loop {
            match self.next()? {
                Token::End => break,
                Token::Mark(b';') => {}
                Token::Dot("version") => module.version = self.version()?,
                Token::Dot("target") => {
                    module.target.push(self.word("a target")?);
                    while self.eat(b',')? {
                        module.target.push(self.word("a target")?);
                    }
                }
                Token::Dot("address_size") => {
                    let size = self.int()?;
                    if size != 64 {
                        return self.error(format!(
                            "expected `.address_size 64`, found {size}; compile for 64 bits"
                        ));
                    }
                }
                Token::Dot("file") => {
                    let number = self.small()?;
                    match self.next()? {
                        Token::Text(path) => module.files.push((number, path)),
                        found => return self.error(format!("expected a path, found {found}")),
                    }
                    while self.eat(b',')? {
                        self.int()?;
                    }
                }
                Token::Dot("section") => self.skip_section()?,
                Token::Dot("pragma") => self.skip_statement()?,
                Token::Dot("alias") => {
                    let alias = self.word("a function")?;
                    self.expect(b',')?;
                    module.aliases.push((alias, self.word("a function")?));
                    self.expect(b';')?;
                }
                Token::Dot("extern") => external = true,
                Token::Dot("visible" | "weak" | "common" | "reloc") => {}
                Token::Dot(entry @ ("entry" | "func")) => {
                    external = false;
                    module.functions.push(self.function(entry == "entry")?);
                }
                Token::Dot(space) => match space_of(space) {
                    Some(space) => {
                        let mut declared = self.declaration(space)?;
                        for variable in &mut declared {
                            variable.external = external;
                        }
                        module.variables.append(&mut declared);
                        external = false;
                    }
                    None => return self.error(format!("unknown directive `.{space}`")),
                },
                found => return self.error(format!("expected a directive, found {found}")),
            }
        }
        if module.version == (0, 0) {
            return self.error("expected a `.version` directive, found none; is this PTX?");
        }
        Ok(module)
    }

    fn version(&mut self) -> Result<(u32, u32)> {
        let text = self.lexer.version()?;
        let (major, minor) = text.split_once('.').unwrap_or((text, ""));
        match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => Ok((major, minor)),
            _ => self.error(format!("expected a version like `9.0`, found `{text}`")),
        }
    }

    fn skip_section(&mut self) -> Result<()> {
        while self.peek()? != Token::Mark(b'{') {
            if self.next()? == Token::End {
                return self.error("expected `{` after `.section`, found the end of the text");
            }
        }
        let mut depth = 0u32;
        loop {
            match self.next()? {
                Token::Mark(b'{') => depth += 1,
                Token::Mark(b'}') if depth == 1 => return Ok(()),
                Token::Mark(b'}') => depth -= 1,
                Token::End => return self.error("a section is never closed"),
                _ => {}
            }
        }
    }

    fn skip_statement(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                Token::Mark(b';') => return Ok(()),
                Token::End => return self.error("expected `;`, found the end of the text"),
                _ => {}
            }
        }
    }

    /// After `.entry` or `.func`.
    fn function(&mut self, entry: bool) -> Result<Function<'a>> {
        self.skip_attribute()?;
        let returns = if self.peek()? == Token::Mark(b'(') {
            self.params()?
        } else {
            Vec::new()
        };
        let name = self.word("a function's name")?;
        let line = self.lexer.line();
        let params = if self.peek()? == Token::Mark(b'(') {
            self.params()?
        } else {
            Vec::new()
        };
        let mut directives = Vec::new();
        let body = loop {
            match self.next()? {
                Token::Mark(b';') => break None,
                Token::Mark(b'{') => break Some(self.nested(Self::statements)?),
                Token::Dot("pragma") => self.skip_statement()?,
                Token::Dot(name) => {
                    let mut numbers = Vec::new();
                    while matches!(self.peek()?, Token::Int(_)) {
                        numbers.push(self.int()?);
                        if !self.eat(b',')? {
                            break;
                        }
                    }
                    directives.push((name, numbers));
                }
                found => {
                    return self.error(format!(
                        "expected the body of `{name}` or `;`, found {found}"
                    ));
                }
            }
        };
        Ok(Function {
            entry,
            name,
            returns,
            params,
            directives,
            body,
            line,
        })
    }

    fn skip_attribute(&mut self) -> Result<()> {
        if self.peek()? == Token::Dot("attribute") {
            self.next()?;
            self.expect(b'(')?;
            let mut depth = 1;
            while depth > 0 {
                match self.next()? {
                    Token::Mark(b'(') => depth += 1,
                    Token::Mark(b')') => depth -= 1,
                    Token::End => return self.error("an attribute is never closed"),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// `( .param … , .reg … )`
    fn params(&mut self) -> Result<Vec<Variable<'a>>> {
        self.expect(b'(')?;
        let mut params = Vec::new();
        while !self.eat(b')')? {
            let space = match self.next()? {
                Token::Dot("param") => Space::Param,
                Token::Dot("reg") => Space::Register,
                found => return self.error(format!("expected `.param`, found {found}")),
            };
            let template = self.declared_type(space)?;
            params.push(self.declarator(&template)?);
            if !self.eat(b',')? {
                self.expect(b')')?;
                break;
            }
        }
        Ok(params)
    }

    /// After the state space: type and names, up to and with the `;`.
    fn declaration(&mut self, space: Space) -> Result<Vec<Variable<'a>>> {
        let template = self.declared_type(space)?;
        let mut variables = vec![self.declarator(&template)?];
        while self.eat(b',')? {
            variables.push(self.declarator(&template)?);
        }
        self.expect(b';')?;
        Ok(variables)
    }

    /// `.align N .v4 .b8 .ptr .global .align 4` in any order; a variable without its name.
    fn declared_type(&mut self, space: Space) -> Result<Variable<'a>> {
        let mut template = Variable {
            space,
            align: None,
            vector: 1,
            ty: "",
            name: "",
            range: None,
            dims: Vec::new(),
            init: Vec::new(),
            external: false,
            line: self.lexer.line(),
        };
        let mut pointer = false;
        loop {
            match self.peek()? {
                Token::Dot("align") => {
                    self.next()?;
                    let align = self.small()?;
                    if !align.is_power_of_two() || align > 1 << 16 {
                        return self.error(format!(
                            "expected an alignment (a power of 2), found {align}"
                        ));
                    }
                    // The alignment after `.ptr` is the pointee's.
                    if !pointer {
                        template.align = Some(align);
                    }
                }
                Token::Dot("attribute") => self.skip_attribute()?,
                Token::Dot("v2") => {
                    self.next()?;
                    template.vector = 2;
                }
                Token::Dot("v4") => {
                    self.next()?;
                    template.vector = 4;
                }
                Token::Dot("v8") => {
                    self.next()?;
                    template.vector = 8;
                }
                Token::Dot("ptr") => {
                    self.next()?;
                    pointer = true;
                }
                Token::Dot(_) if pointer => {
                    self.next()?;
                }
                Token::Dot(ty) => {
                    self.next()?;
                    template.ty = ty;
                }
                _ => break,
            }
        }
        if template.ty.is_empty() {
            let found = self.peek()?;
            return self.error(format!("expected a type, found {found}"));
        }
        Ok(template)
    }

    fn declarator(&mut self, template: &Variable<'a>) -> Result<Variable<'a>> {
        let mut variable = template.clone();
        variable.name = self.word("a name")?;
        variable.line = self.lexer.line();
        if self.eat(b'<')? {
            variable.range = Some(self.small()?);
            self.expect(b'>')?;
        }
        while self.eat(b'[')? {
            if self.eat(b']')? {
                variable.dims.push(None);
                continue;
            }
            variable.dims.push(Some(self.int()?));
            self.expect(b']')?;
        }
        if self.eat(b'=')? {
            self.initialiser(&mut variable.init)?;
        }
        Ok(variable)
    }

    fn initialiser(&mut self, out: &mut Vec<Init<'a>>) -> Result<()> {
        if out.len() >= MAX_INIT {
            return self.error(format!("an initialiser has more than {MAX_INIT} elements"));
        }
        if self.eat(b'{')? {
            return self.nested(|parser| {
                while !parser.eat(b'}')? {
                    parser.initialiser(out)?;
                    if !parser.eat(b',')? {
                        parser.expect(b'}')?;
                        break;
                    }
                }
                Ok(())
            });
        }
        let negative = self.eat(b'-')?;
        let value = match self.next()? {
            Token::Int(value) => {
                // `0xFF(name)` stores one byte of an address.
                if self.peek()? == Token::Mark(b'(') {
                    self.masked_address(value)?
                } else if negative {
                    Init::Int(value.wrapping_neg())
                } else {
                    Init::Int(value)
                }
            }
            Token::F32(bits) => Init::F32(bits ^ u32::from(negative) << 31),
            Token::F64(bits) => Init::F64(bits ^ u64::from(negative) << 63),
            Token::Word("generic") => {
                self.expect(b'(')?;
                let address = self.address_of()?;
                self.expect(b')')?;
                // An offset may also follow the closing parenthesis.
                match address {
                    Init::Address { name, offset, .. } => Init::Address {
                        name,
                        offset: offset.wrapping_add(self.offset()?),
                        mask_shift: None,
                    },
                    other => other,
                }
            }
            Token::Word(name) => Init::Address {
                name,
                offset: self.offset()?,
                mask_shift: None,
            },
            found => return self.error(format!("expected an initial value, found {found}")),
        };
        out.push(value);
        Ok(())
    }

    fn masked_address(&mut self, mask: u64) -> Result<Init<'a>> {
        let shift = mask.trailing_zeros();
        if mask == 0 || !shift.is_multiple_of(8) || mask >> shift != 0xff {
            return self.error(format!("expected a mask of one byte, found `{mask:#x}`"));
        }
        self.expect(b'(')?;
        let inner = if self.peek()? == Token::Word("generic") {
            self.next()?;
            self.expect(b'(')?;
            let inner = self.address_of()?;
            self.expect(b')')?;
            inner
        } else {
            self.address_of()?
        };
        self.expect(b')')?;
        Ok(match inner {
            Init::Address { name, offset, .. } => Init::Address {
                name,
                offset,
                mask_shift: Some(shift),
            },
            other => other,
        })
    }

    fn address_of(&mut self) -> Result<Init<'a>> {
        let name = self.word("a variable")?;
        Ok(Init::Address {
            name,
            offset: self.offset()?,
            mask_shift: None,
        })
    }

    /// `+N`, `-N`, `+-N` or nothing.
    fn offset(&mut self) -> Result<i64> {
        if self.eat(b'+')? {
            return Ok(self.int()? as i64);
        }
        if self.eat(b'-')? {
            return Ok((self.int()? as i64).wrapping_neg());
        }
        Ok(0)
    }

    /// Statements up to and with the closing brace.
    fn statements(&mut self) -> Result<Vec<Statement<'a>>> {
        let mut statements = Vec::new();
        loop {
            match self.next()? {
                Token::Mark(b'}') => return Ok(statements),
                Token::Mark(b';') => {}
                Token::Mark(b'{') => {
                    statements.push(Statement::Block(self.nested(Self::statements)?));
                }
                Token::Mark(b'@') => {
                    let negated = self.eat(b'!')?;
                    let guard = self.word("a predicate")?;
                    let opcode = self.word("an instruction")?;
                    let instruction = self.instruction(opcode, Some((guard, negated)))?;
                    statements.push(Statement::Instruction(instruction));
                }
                Token::Dot("loc") => statements.push(Statement::Loc(self.loc()?)),
                Token::Dot("pragma") => self.skip_statement()?,
                Token::Dot("file") => {
                    self.int()?;
                    self.next()?;
                }
                Token::Dot(space) => match space_of(space) {
                    Some(space) => statements.extend(
                        self.declaration(space)?
                            .into_iter()
                            .map(Statement::Variable),
                    ),
                    None => return self.error(format!("unknown directive `.{space}` in a body")),
                },
                Token::Word(word) => {
                    if self.eat(b':')? {
                        statements.push(self.label(word)?);
                    } else {
                        let instruction = self.instruction(word, None)?;
                        statements.push(Statement::Instruction(instruction));
                    }
                }
                found => {
                    return self.error(format!("expected a statement, found {found}"));
                }
            }
        }
    }

    fn loc(&mut self) -> Result<Loc> {
        let file = self.small()?;
        let line = self.small()?;
        self.int()?;
        while self.eat(b',')? {
            match self.word("`function_name` or `inlined_at`")? {
                "function_name" => {
                    self.word("a label")?;
                    self.offset()?;
                }
                "inlined_at" => {
                    self.int()?;
                    self.int()?;
                    self.int()?;
                }
                other => return self.error(format!("unknown `.loc` attribute `{other}`")),
            }
        }
        Ok(Loc { file, line })
    }

    /// After `name:`.
    fn label(&mut self, name: &'a str) -> Result<Statement<'a>> {
        match self.peek()? {
            Token::Dot("branchtargets" | "calltargets") => {
                self.next()?;
                let mut targets = vec![self.word("a label")?];
                while self.eat(b',')? {
                    targets.push(self.word("a label")?);
                }
                self.expect(b';')?;
                Ok(Statement::BranchTargets(name, targets))
            }
            Token::Dot("callprototype") => {
                self.next()?;
                let returns = if self.peek()? == Token::Mark(b'(') {
                    self.params()?
                } else {
                    Vec::new()
                };
                self.word("`_`")?;
                let params = if self.peek()? == Token::Mark(b'(') {
                    self.params()?
                } else {
                    Vec::new()
                };
                self.skip_statement()?;
                Ok(Statement::Prototype(name, Prototype { returns, params }))
            }
            _ => Ok(Statement::Label(name)),
        }
    }

    fn instruction(
        &mut self,
        opcode: &'a str,
        guard: Option<(&'a str, bool)>,
    ) -> Result<Instruction<'a>> {
        let line = self.lexer.line();
        let mut words = vec![opcode];
        while let Token::Dot(word) = self.peek()? {
            self.next()?;
            words.push(word);
        }
        let mut operands = Vec::new();
        if !self.eat(b';')? {
            loop {
                operands.push(self.nested(Self::operand)?);
                match self.next()? {
                    Token::Mark(b',') => {}
                    Token::Mark(b';') => break,
                    found => {
                        return self.error(format!(
                            "expected `,` or `;` in `{}`, found {found}",
                            words.join(".")
                        ));
                    }
                }
            }
        }
        Ok(Instruction {
            guard,
            opcode: words,
            operands,
            line,
        })
    }

    fn operand(&mut self) -> Result<Operand<'a>> {
        let first = self.single()?;
        if self.eat(b'|')? {
            let second = self.single()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn single(&mut self) -> Result<Operand<'a>> {
        match self.next()? {
            Token::Word(name) => match self.peek()? {
                Token::Dot(component) => {
                    self.next()?;
                    Ok(Operand::Component(name, component))
                }
                Token::Mark(b'+' | b'-') => Ok(Operand::Offset(name, self.offset()?)),
                _ => Ok(Operand::Name(name)),
            },
            Token::Int(value) => Ok(Operand::Int(value)),
            Token::F32(bits) => Ok(Operand::F32(bits)),
            Token::F64(bits) => Ok(Operand::F64(bits)),
            Token::Mark(b'-') => match self.next()? {
                Token::Int(value) => Ok(Operand::Int(value.wrapping_neg())),
                Token::F32(bits) => Ok(Operand::F32(bits ^ 1 << 31)),
                Token::F64(bits) => Ok(Operand::F64(bits ^ 1 << 63)),
                found => self.error(format!("expected a number, found {found}")),
            },
            Token::Mark(b'!') => Ok(Operand::Not(self.word("a predicate")?)),
            Token::Mark(b'[') => self.address(),
            Token::Mark(b'{') => Ok(Operand::Vector(self.list(b'}')?)),
            Token::Mark(b'(') => Ok(Operand::List(self.list(b')')?)),
            found => self.error(format!("expected an operand, found {found}")),
        }
    }

    fn list(&mut self, close: u8) -> Result<Vec<Operand<'a>>> {
        let mut items = Vec::new();
        while !self.eat(close)? {
            items.push(self.nested(Self::operand)?);
            if !self.eat(b',')? {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }

    /// After `[`.
    fn address(&mut self) -> Result<Operand<'a>> {
        let address = match self.peek()? {
            Token::Word(base) => {
                self.next()?;
                Operand::Address {
                    base: Some(base),
                    offset: self.offset()?,
                }
            }
            _ => Operand::Address {
                base: None,
                offset: self.int()? as i64,
            },
        };
        self.expect(b']')?;
        Ok(address)
    }
}

fn space_of(word: &str) -> Option<Space> {
    Some(match word {
        "reg" => Space::Register,
        "global" => Space::Global,
        "const" => Space::Constant,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}
