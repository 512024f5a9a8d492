//! The frozen tensors of a graph.
//!
//! In: the name of a value, and how an operator uses it. Out: where the engine has its values. Refused: values that are
//! not constants, or that are not the manifest's tensor of that name: the engine reads that, whatever the graph reads.

use std::collections::HashSet;

use edge_bundle::{Element, SCALE_GROUP, TensorEntry, onnx};
use edge_engine::Tensor;

use super::{
    graph::{Result, Uncovered, check_int, check_list},
    patterns::{Search, unknown},
};

/// How a frozen tensor is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Vector,
    Table,
    Matrix,
}

impl<'a> Search<'a> {
    /// A frozen tensor: a constant, one of halves, Cast(X), or an int8 one and its scales, Mul(Cast(X), scales). Of a matrix
    /// the scales are X's gathered by group of rows.
    pub(super) fn frozen(&self, node: &onnx::Node, name: &'a str, stored: Stored) -> Result<Tensor> {
        let graph = &self.graph;
        let (mut constant, mut scales, mut is_cast) = (name, None, false);
        if let Some(product) = graph.find(name, "Mul")? {
            let [quantized, of] = &product.input[..] else { return Err(unknown(product)) };
            (constant, scales) = (quantized, Some((product, of.as_str())));
        }
        if let Some(cast) = graph.find(constant, "Cast")? {
            let [of] = &cast.input[..] else { return Err(unknown(cast)) };
            check_int(cast, "to", &[onnx::FLOAT.into()], 0)?;
            (constant, is_cast) = (of, true);
        }
        graph.constant(constant)?;
        let found = (self.tensor)(constant);
        let (entry, tensor) = found.ok_or_else(|| Uncovered::at(constant, "a tensor of the panels file", "none"))?;
        let due = match stored {
            Stored::Vector => vec![i64::from(entry.columns)],
            Stored::Matrix | Stored::Table => vec![i64::from(entry.rows), i64::from(entry.columns)],
        };
        self.check_place(node, constant, &due)?;
        if tensor.in_panels != (stored == Stored::Matrix) {
            return Err(Uncovered::at(constant, "a matrix in panels, or a table row by row", "the other"));
        }
        if tensor.is_quantized() != scales.is_some() || tensor.is_f32() == is_cast {
            let due = "an int8 tensor, cast and with its scales, one of f16, cast, or one of f32";
            return Err(Uncovered::at(constant, due, "another"));
        }
        if let Some((product, scales)) = scales {
            self.check_scales(product, scales, constant, &tensor)?;
        }
        Ok(tensor)
    }

    /// Checks that a constant has a shape, and the type and place in `weights.bin` that the manifest says.
    fn check_place(&self, node: &onnx::Node, name: &str, dims: &[i64]) -> Result<()> {
        let constant = self.graph.constant(name)?;
        check_list(node, &format!("{name} of shape"), dims, &constant.dims)?;
        let entry = self.tensors.get(name).ok_or_else(|| Uncovered::at(name, "a tensor of the manifest", "none"))?;
        let data_type = match entry.element {
            Element::F32 => onnx::FLOAT,
            Element::F16 => onnx::FLOAT16,
            Element::I8 | Element::I4 => onnx::INT8,
        };
        if constant.data_type() != data_type {
            return Err(Uncovered::at(name, format!("values of type {data_type}"), constant.data_type()));
        }
        // Of a key that is there twice, one program reads the first and another the last.
        let keys: HashSet<&str> = constant.external_data.iter().map(onnx::Entry::key).collect();
        if keys.len() != constant.external_data.len() {
            return Err(Uncovered::at(name, "each part of its place once", "one twice"));
        }
        let number = |key, default| constant.external(key).map_or(default, |text| text.parse::<u64>().ok());
        let (offset, length) = (number("offset", Some(0)), number("length", entry.bytes()));
        let location = constant.external("location").filter(|_| constant.is_external());
        if location != Some("weights.bin") || offset != Some(entry.offset) || length != entry.bytes() {
            let text = |key| constant.external(key).unwrap_or("none");
            let found = match location {
                Some(file) => format!("{file}, offset {}, length {}", text("offset"), text("length")),
                None => "values in the graph".to_owned(),
            };
            let length = entry.bytes().unwrap_or(u64::MAX);
            let due = format!("weights.bin, offset {}, length {length}, as the manifest says", entry.offset);
            return Err(Uncovered::at(name, due, found));
        }
        Ok(())
    }

    /// Checks that what int8 values are multiplied by are their scales: of a matrix those of each row's group, of a
    /// table those of its rows.
    fn check_scales(&self, product: &onnx::Node, scales: &str, constant: &str, tensor: &Tensor) -> Result<()> {
        let due = TensorEntry::scales_of(constant);
        let mut found = scales;
        if tensor.in_panels {
            let gather = self.graph.step(scales, "Gather", 2)?;
            check_int(gather, "axis", &[0], 0)?;
            let groups = self.graph.integers(&gather.input[1])?;
            let rows = i64::try_from(tensor.rows).unwrap_or(i64::MAX);
            check_list(gather, "groups of shape", &[rows], &self.graph.constant(&gather.input[1])?.dims)?;
            if !(0..rows).map(|row| row / SCALE_GROUP as i64).eq(groups) {
                return Err(Uncovered::node(gather, format!("a scale for every {SCALE_GROUP} rows"), "others"));
            }
            found = &gather.input[0];
        }
        if found != due {
            return Err(Uncovered::node(product, format!("the scales {due}"), found));
        }
        let shape = self.tensors.get(constant).map_or([0, 0], |entry| entry.scales());
        self.check_place(product, &due, &shape.map(|dim| i64::try_from(dim).unwrap_or(i64::MAX)))
    }
}
