//! Linear layers, and the low-rank terms that a graph may take as inputs.
//!
//! In: the node that a layer ends in. Out: the engine's layer. Refused: a matrix that is not frozen, a bias that is no
//! slot, and a term other than (x A^T) B^T of the module's own inputs, because the engine adds that one.

use edge_bundle::{Slot, onnx::Node};
use edge_engine::Linear;

use super::{
    frozen::Stored,
    graph::{Result, Uncovered},
    patterns::{Search, unknown},
};

impl<'a> Search<'a> {
    /// The layer of Add(Add(MatMul(x, W), term), b), the same without a term, or MatMul(x, W); and the name of x.
    pub(super) fn linear(&self, node: &'a Node) -> Result<(Linear, &'a str)> {
        let (product, term, bias) = match (node.op_type(), &node.input[..]) {
            ("Add", [sum, bias]) => {
                let (product, term) = match self.graph.find(sum, "Add")? {
                    None => (sum, None),
                    Some(sum) => {
                        let [product, term] = &sum.input[..] else { return Err(unknown(sum)) };
                        (product, Some(term))
                    }
                };
                (self.graph.step(product, "MatMul", 2)?, term, Some(self.slot(node, bias)?))
            }
            ("MatMul", [_, _]) => (node, None, None),
            _ => return Err(unknown(node)),
        };
        let weight = self.frozen(product, &product.input[1], Stored::Matrix)?;
        // A layer's low-rank term has the number of its bias, as tasks count their values.
        let (low_rank, bias) = bias.unzip();
        if let Some(number) = low_rank {
            let slot = &self.manifest.slots[number];
            let due = self.manifest.config.inputs(slot.module) as usize;
            if !slot.module.is_linear() || weight.rows != due {
                let found = format!("{} of {}", weight.rows, slot.module.symbol());
                return Err(Uncovered::node(product, format!("a linear layer of {due} inputs"), found));
            }
            match term {
                Some(term) => self.check_term(term, product, slot)?,
                None => self.check_no_term(node, slot)?,
            }
        }
        Ok((Linear { weight, bias, low_rank }, &product.input[0]))
    }

    /// Checks that the graph has no inputs for a term that it does not add.
    fn check_no_term(&self, node: &Node, bias: &Slot) -> Result<()> {
        match Slot::low_rank_inputs(&bias.name).iter().find(|name| self.graph.is_input(name)) {
            None => Ok(()),
            Some(unread) => Err(Uncovered::node(node, format!("the low-rank term of the input {unread}"), "none")),
        }
    }

    /// Checks that a value is (x A^T) B^T, x being what the product reads, and A and B being the inputs of the module
    /// that has this bias, with defaults of rank 0.
    fn check_term(&self, term: &str, product: &Node, bias: &Slot) -> Result<()> {
        let outer = self.graph.step(term, "MatMul", 2)?;
        let inner = self.graph.step(&outer.input[0], "MatMul", 2)?;
        let (x, found) = (&product.input[0], &inner.input[0]);
        if found != x {
            return Err(Uncovered::node(inner, format!("{x}, as {} reads", product.name()), found));
        }
        let dims = [[0, self.manifest.config.inputs(bias.module)], [bias.len, 0]];
        for ((node, due), dims) in [inner, outer].into_iter().zip(Slot::low_rank_inputs(&bias.name)).zip(dims) {
            let found = self.transposed(&node.input[1], &[1, 0])?;
            if found != due {
                return Err(Uncovered::node(node, format!("the transpose of {due}"), found));
            }
            self.graph.check_default(found, &dims.map(i64::from))?;
        }
        Ok(())
    }
}
