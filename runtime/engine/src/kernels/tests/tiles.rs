//! AMX's instructions in software, so that its kernel is tested on processors that lack them.
//!
//! In: an instruction of AMX that this processor refused. Out: the registers, and memory, as Intel's manual says they are
//! after it. Refused: shapes that the manual forbids, and any other instruction; they end the test.

#![allow(unsafe_code)]

use core::{cell::RefCell, slice};
use std::{eprintln, process, sync::Once, thread_local};

/// The registers of a thread. Shapes of all zeros are those of no register.
struct Tiles {
    rows: [usize; 8],
    bytes: [usize; 8],
    data: [[[u8; 64]; 16]; 8],
}

thread_local! {
    static TILES: RefCell<Tiles> =
        const { RefCell::new(Tiles { rows: [0; 8], bytes: [0; 8], data: [[[0; 64]; 16]; 8] }) };
}

/// Executes AMX's instructions from now on.
pub(in crate::kernels) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the structure is plain data, for which zeros are values; the handler has the form that the flag asks for.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = refused as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, core::ptr::null_mut()), 0);
        }
    });
}

/// The processor refused an instruction of this thread, so that it is in no other code.
extern "C" fn refused(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands the handler the thread's registers. It executes none of its instructions meanwhile.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let done = TILES.with_borrow_mut(|tiles| Instruction::at(registers).and_then(|found| tiles.execute(&found)));
    match done {
        Ok(bytes) => registers[libc::REG_RIP as usize] += bytes,
        Err(what) => {
            eprintln!("an illegal instruction at {:#x}: {what}", registers[libc::REG_RIP as usize]);
            process::abort();
        }
    }
}

/// An instruction with a prefix of three bytes.
struct Instruction {
    /// Its opcode and the number that the prefix has for one of four older prefixes: none, 66, F3, F2.
    opcode: (u8, u8),
    /// Registers: of the byte after the opcode, its middle and its last; of the prefix.
    middle: usize,
    last: usize,
    prefixed: usize,
    /// An address and what is added to it for each row, if it has one.
    memory: Option<(usize, usize)>,
    bytes: i64,
}

impl Instruction {
    /// The one that a thread is at.
    fn at(registers: &[i64; 23]) -> Result<Self, &'static str> {
        const ORDER: [libc::c_int; 16] = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        let value = |number: usize| registers[ORDER[number] as usize] as usize;
        let begin = registers[libc::REG_RIP as usize] as *const u8;
        // SAFETY: the processor has read the instruction there. A byte is read only if those before it say that it follows.
        let byte = |at: usize| unsafe { *begin.add(at) };
        if byte(0) != 0xC4 || byte(1) & 0x1F != 2 || byte(2) & 0x84 != 0 {
            return Err("none of AMX");
        }
        // Of eight registers a fourth bit would name none.
        if byte(1) >> 7 == 0 {
            return Err("a register beyond the eighth");
        }
        let extension = |bit: u32| if byte(1) >> bit & 1 == 0 { 8 } else { 0 };
        let operands = byte(4);
        let (form, middle, last) = (operands >> 6, usize::from(operands >> 3 & 7), usize::from(operands & 7));
        let (mut at, mut memory, mut indexed) = (5, None, false);
        if form != 3 {
            let (mut base, mut stride) = (last + extension(5), 0);
            if last == 4 {
                indexed = true;
                let (scale, index) = (byte(5) >> 6, usize::from(byte(5) >> 3 & 7) + extension(6));
                base = usize::from(byte(5) & 7) + extension(5);
                stride = if index == 4 { 0 } else { value(index) << scale };
                at = 6;
            }
            let far = match form {
                0 if base % 8 == 5 => return Err("an address without a register"),
                0 => 0,
                1 => isize::from(byte(at).cast_signed()),
                _ => i32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]) as isize,
            };
            at += [0, 1, 4][usize::from(form)];
            memory = Some((value(base).wrapping_add_signed(far), stride));
        }
        let opcode = (byte(3), byte(2) & 3);
        let prefixed = usize::from(!(byte(2) >> 3) & 15);
        match (byte(3), form) {
            (0x4B, _) if !indexed => return Err("rows without an index"),
            (0x49 | 0x4B, _) if prefixed != 0 => return Err("a third register where there are fewer"),
            (0x49, 3) if last != 0 => return Err("a second register where there is one"),
            _ => {}
        }
        Ok(Instruction { opcode, middle, last, prefixed, memory, bytes: at as i64 })
    }
}

impl Tiles {
    /// Gives how many bytes the instruction has.
    fn execute(&mut self, found: &Instruction) -> Result<i64, &'static str> {
        /// Of the opcode: nothing, 66, F3, F2.
        const NONE: u8 = 0;
        const OPERAND: u8 = 1;
        const STORE: u8 = 2;
        const LOAD: u8 = 3;
        match (found.opcode, found.memory) {
            ((0x49, NONE), Some((address, 0))) if found.middle == 0 => self.shape(address)?,
            ((0x49, NONE), None) if found.middle == 0 => {
                (self.rows, self.bytes) = ([0; 8], [0; 8]);
                self.data.as_flattened_mut().fill([0; 64]);
            }
            ((0x49, LOAD), None) => {
                self.has(found.middle)?;
                self.data[found.middle].fill([0; 64]);
            }
            ((0x4B, LOAD), Some((address, stride))) => {
                let (rows, bytes) = self.has(found.middle)?;
                self.data[found.middle].fill([0; 64]);
                for (row, data) in self.data[found.middle].iter_mut().take(rows).enumerate() {
                    // SAFETY: the instruction would read the same. What may not be read ends the test, as it should.
                    let there = unsafe { slice::from_raw_parts((address + row * stride) as *const u8, bytes) };
                    data[..bytes].copy_from_slice(there);
                }
            }
            ((0x4B, STORE), Some((address, stride))) => {
                let (rows, bytes) = self.has(found.middle)?;
                for (row, data) in self.data[found.middle].iter().take(rows).enumerate() {
                    // SAFETY: as above, of writing.
                    unsafe { ((address + row * stride) as *mut u8).copy_from(data.as_ptr(), bytes) }
                }
            }
            ((0x5E, OPERAND), None) => self.multiply(found.middle, found.last, found.prefixed)?,
            _ => return Err("an operation that is not known here"),
        }
        Ok(found.bytes)
    }

    /// `ldtilecfg`.
    fn shape(&mut self, address: usize) -> Result<(), &'static str> {
        // SAFETY: as of loading.
        let shapes = unsafe { *(address as *const [u8; 64]) };
        if shapes[0] != 1 || shapes[1] != 0 {
            return Err("another palette than 1, or another first row than 0");
        }
        if shapes[2..16].iter().chain(&shapes[32..48]).chain(&shapes[56..]).any(|byte| *byte != 0) {
            return Err("reserved bytes that are not 0");
        }
        for at in 0..8 {
            let (rows, bytes) = (shapes[48 + at], u16::from_le_bytes([shapes[16 + 2 * at], shapes[17 + 2 * at]]));
            if rows > 16 || bytes > 64 || (rows == 0) != (bytes == 0) {
                return Err("a register of more than 16 rows of 64 bytes");
            }
            (self.rows[at], self.bytes[at]) = (rows.into(), bytes.into());
        }
        self.data.as_flattened_mut().fill([0; 64]);
        Ok(())
    }

    /// Rows and bytes of a register.
    fn has(&self, at: usize) -> Result<(usize, usize), &'static str> {
        match (self.rows.get(at), self.bytes.get(at)) {
            (Some(rows), Some(bytes)) if *rows > 0 => Ok((*rows, *bytes)),
            _ => Err("a register without a shape"),
        }
    }

    /// `tdpbusd`: unsigned bytes of `a` by signed bytes of `b`.
    fn multiply(&mut self, sums: usize, a: usize, b: usize) -> Result<(), &'static str> {
        let (shape, of_a, of_b) = (self.has(sums)?, self.has(a)?, self.has(b)?);
        if sums == a || sums == b || a == b || shape != (of_a.0, of_b.1) || of_a.1 != 4 * of_b.0 {
            return Err("registers that do not fit");
        }
        for row in 0..shape.0 {
            for column in 0..shape.1 / 4 {
                let place = 4 * column..4 * column + 4;
                let product = |k: usize| {
                    i32::from(self.data[a][row][k]) * i32::from(self.data[b][k / 4][place.start + k % 4].cast_signed())
                };
                let sum = (0..of_a.1).map(product).fold(0i32, i32::wrapping_add);
                let before: [u8; 4] = self.data[sums][row][place.clone()].try_into().map_err(|_| "four bytes")?;
                let after = i32::from_le_bytes(before).wrapping_add(sum).to_le_bytes();
                self.data[sums][row][place].copy_from_slice(&after);
            }
        }
        Ok(())
    }
}
