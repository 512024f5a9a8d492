//! How a matrix lies in memory for the kernels: panels. The bundle's FORMAT.md has the same layout byte by byte.

/// Columns in a panel: one register of AVX-512, two of AVX2, four of NEON.
pub const PANEL_WIDTH: usize = 16;
/// Rows of int8 values that lie side by side in a panel: what one dot-product instruction of VNNI or NEON sums.
pub const PANEL_GROUP: usize = 4;
/// Rows of an int8 matrix whose values share a scale, column by column.
pub const SCALE_GROUP: usize = 256;
/// Rows of an int4 matrix, or columns of an int4 table, whose values are multiples of one number.
pub const FACTOR_GROUP: usize = 32;
/// Bytes that an int4 panel has for each [`FACTOR_GROUP`] rows: a factor for each column, and a nibble for each value.
pub const PACKED_BYTES: usize = PANEL_WIDTH + FACTOR_GROUP * PANEL_WIDTH / 2;
/// Bytes that a row of an int4 table has for each [`FACTOR_GROUP`] values: their factor, and a nibble for each.
pub const PACKED_ROW_BYTES: usize = 1 + FACTOR_GROUP / 2;
/// Boundary of every tensor, in bytes: a cache line.
pub const ALIGNMENT: usize = 64;
