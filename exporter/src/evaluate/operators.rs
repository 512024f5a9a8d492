//! What each operator computes, to be read beside the ONNX operator specification.
//!
//! In: a node and its operands. Out: its outputs, in f64. Refused: shapes that do not fit, and what edge-export does not emit.

use ndarray::{Array, ArrayD, ArrayView2, Axis, Ix2, IxDyn, Slice};

use super::{Value, bad_node};
use crate::{
    Result,
    onnx::{Attribute, Node},
};

/// The outputs of a node.
pub(super) fn apply(node: &Node, operands: &[Value]) -> Result<Vec<Value>> {
    let op = node.op_type.as_deref().unwrap_or("");
    let float = |at: usize| match operands.get(at) {
        Some(Value::Float(array)) => Ok(array),
        _ => Err(bad_node(node, format!("a float as input {at}"), "another")),
    };
    let int = |at: usize| match operands.get(at) {
        Some(Value::Int(array)) => Ok(array),
        _ => Err(bad_node(node, format!("an integer as input {at}"), "another")),
    };
    let shape_error = |e: ndarray::ShapeError| bad_node(node, "shapes that fit", e);
    Ok(vec![Value::Float(match op {
        "Add" if matches!(operands.first(), Some(Value::Int(_))) => {
            let (a, b) = (int(0)?, int(1)?);
            check_broadcast(node, a.shape(), b.shape())?;
            return Ok(vec![Value::Int(a + b)]);
        }
        "Add" | "Sub" | "Mul" => {
            let (a, b) = (float(0)?, float(1)?);
            check_broadcast(node, a.shape(), b.shape())?;
            match op {
                "Add" => a + b,
                "Sub" => a - b,
                _ => a * b,
            }
        }
        "Cast" => int(0)?.mapv(|v| v as f64),
        "Relu" => float(0)?.mapv(|v| v.max(0.0)),
        "Tanh" => float(0)?.mapv(f64::tanh),
        "Erf" => float(0)?.mapv(erf),
        "Exp" => float(0)?.mapv(f64::exp),
        "Neg" => float(0)?.mapv(|v| -v),
        "Sign" => float(0)?.mapv(|v| if v == 0.0 { 0.0 } else { v.signum() }),
        "Gelu" => {
            let tanh = attribute(node, "approximate").and_then(|a| a.s.as_deref()) == Some(b"tanh");
            float(0)?.mapv(if tanh { gelu_tanh } else { gelu })
        }
        "Shape" => {
            let dims = match operands.first() {
                Some(Value::Float(array)) => array.shape(),
                Some(Value::Int(array)) => array.shape(),
                None => return Err(bad_node(node, "an input", "none")),
            };
            let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
            let bound = |name, default| number(node, name, default).max(0) as usize;
            let part = dims.get(bound("start", 0)..bound("end", dims.len() as i64)).unwrap_or_default().to_vec();
            return Ok(vec![Value::Int(Array::from_vec(part).into_dyn())]);
        }
        "Slice" => {
            let bound = |at| int(at).map(|a| a.iter().next().copied().unwrap_or(0));
            let (start, end, axis) = (bound(1)?, bound(2)?, bound(3)?);
            let data = float(0)?;
            let axis = check_axis(node, axis, data.ndim())?;
            let rows = data.shape()[axis] as i64;
            if !(0..=end).contains(&start) || end > rows {
                return Err(bad_node(node, format!("a slice within {rows} rows"), format!("{start}..{end}")));
            }
            data.slice_axis(Axis(axis), Slice::new(start as isize, Some(end as isize), 1)).to_owned()
        }
        "Gather" => gather(node, float(0)?, int(1)?)?,
        "Unsqueeze" => {
            let mut array = float(0)?.clone();
            for axis in int(1)? {
                let axis = check_axis(node, *axis, array.ndim() + 1)?;
                array = array.insert_axis(Axis(axis));
            }
            array
        }
        "Reshape" => {
            let array = float(0)?;
            // 0 keeps the dimension.
            let keep = |(at, d): (usize, &i64)| {
                if *d == 0 { array.shape().get(at).copied().unwrap_or(0) } else { *d as usize }
            };
            let dims: Vec<usize> = int(1)?.iter().enumerate().map(keep).collect();
            array.as_standard_layout().into_owned().into_shape_with_order(dims).map_err(shape_error)?
        }
        "Transpose" => {
            let array = float(0)?;
            let order: Vec<usize> =
                attribute(node, "perm").map_or(vec![], |a| a.ints.iter().map(|i| *i as usize).collect());
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if sorted != (0..array.ndim()).collect::<Vec<_>>() {
                return Err(bad_node(node, format!("an order of {} axes", array.ndim()), format!("{order:?}")));
            }
            array.clone().permuted_axes(order).as_standard_layout().into_owned()
        }
        "Softmax" | "LogSoftmax" => {
            let mut array = float(0)?.clone();
            let axis = check_axis(node, number(node, "axis", -1), array.ndim())?;
            for mut lane in array.lanes_mut(Axis(axis)) {
                let top = lane.fold(f64::NEG_INFINITY, |m, v| m.max(*v));
                lane.mapv_inplace(|v| v - top);
                if op == "Softmax" {
                    lane.mapv_inplace(f64::exp);
                    let sum = lane.sum();
                    lane /= sum;
                } else {
                    let sum: f64 = lane.iter().map(|v| v.exp()).sum();
                    lane.mapv_inplace(|v| v - sum.ln());
                }
            }
            array
        }
        "ReduceSum" | "ReduceMean" | "ReduceL1" => {
            let axes = if operands.len() > 1 { Some(int(1)?) } else { None };
            reduce(node, float(0)?, axes)?
        }
        "Concat" => {
            let parts = (0..operands.len()).map(float).collect::<Result<Vec<_>>>()?;
            let parts: Vec<_> = parts.iter().map(|part| part.view()).collect();
            let rank = parts.first().map_or(0, |part| part.ndim());
            let axis = check_axis(node, number(node, "axis", 0), rank)?;
            ndarray::concatenate(Axis(axis), &parts).map_err(shape_error)?
        }
        "LayerNormalization" => return layer_norm(node, float(0)?, float(1)?, float(2)?),
        "MatMul" => matmul(node, float(0)?, float(1)?)?,
        other => return Err(bad_node(node, "an operator that edge-export emits", other)),
    })])
}

/// LayerNorm over the last dimension; the mean of each row and the inverse of its deviation are outputs too.
fn layer_norm(node: &Node, x: &ArrayD<f64>, gain: &ArrayD<f64>, bias: &ArrayD<f64>) -> Result<Vec<Value>> {
    let epsilon = f64::from(attribute(node, "epsilon").and_then(|a| a.f).unwrap_or(1e-5));
    let shape_error = || bad_node(node, "rows of at least one value", format!("{:?}", x.shape()));
    let last = Axis(x.ndim().checked_sub(1).ok_or_else(shape_error)?);
    let width = x.len_of(last);
    for vector in [gain, bias] {
        if vector.shape() != [width] {
            return Err(bad_node(node, format!("gain and bias of {width} values"), format!("{:?}", vector.shape())));
        }
    }
    let mean = x.mean_axis(last).ok_or_else(shape_error)?.insert_axis(last);
    let centred = x - &mean;
    let variance = centred.mapv(|v| v * v).mean_axis(last).ok_or_else(shape_error)?.insert_axis(last);
    let inverse = variance.mapv(|v| 1.0 / (v + epsilon).sqrt());
    Ok([centred * &inverse * gain + bias, mean, inverse].map(Value::Float).into())
}

/// The sum, mean or sum of magnitudes along `axes`, or of all values.
fn reduce(node: &Node, array: &ArrayD<f64>, axes: Option<&ArrayD<i64>>) -> Result<ArrayD<f64>> {
    let op = node.op_type.as_deref().unwrap_or("");
    let rank = array.ndim();
    let mut along = match axes {
        Some(axes) => axes.iter().map(|axis| check_axis(node, *axis, rank)).collect::<Result<Vec<_>>>()?,
        None => (0..rank).collect(),
    };
    // The last first, so that the numbers of the others stay.
    along.sort_unstable_by(|a, b| b.cmp(a));
    let keep = number(node, "keepdims", 1) != 0;
    let mut array = if op == "ReduceL1" { array.mapv(f64::abs) } else { array.clone() };
    for axis in along {
        let count = array.shape()[axis] as f64;
        array = array.sum_axis(Axis(axis));
        if op == "ReduceMean" {
            array /= count;
        }
        if keep {
            array = array.insert_axis(Axis(axis));
        }
    }
    Ok(array)
}

/// Rows (or, along axis 1, slices) of `table` by index; a scalar index drops the axis.
fn gather(node: &Node, table: &ArrayD<f64>, indices: &ArrayD<i64>) -> Result<ArrayD<f64>> {
    let axis = check_axis(node, number(node, "axis", 0), table.ndim())?;
    let rows = table.shape()[axis];
    let flat: Vec<usize> = indices.iter().map(|i| usize::try_from(*i).unwrap_or(usize::MAX)).collect();
    if let Some(outside) = flat.iter().find(|i| **i >= rows) {
        return Err(bad_node(node, format!("an index below {rows}"), outside));
    }
    if indices.ndim() == 0 {
        return Ok(table.index_axis(Axis(axis), flat[0]).to_owned());
    }
    if axis != 0 {
        return Err(bad_node(node, "axis 0 for more than one index", axis));
    }
    let dims: Vec<usize> = indices.shape().iter().chain(&table.shape()[1..]).copied().collect();
    let picked = table.select(Axis(axis), &flat);
    picked.into_shape_with_order(dims).map_err(|e| bad_node(node, "shapes that fit", e))
}

/// `[.., m, k]` by `[k, n]`, or by `[.., k, n]` with the same leading dimensions.
fn matmul(node: &Node, a: &ArrayD<f64>, b: &ArrayD<f64>) -> Result<ArrayD<f64>> {
    let shape_error = |e: ndarray::ShapeError| bad_node(node, "shapes that fit", e);
    if a.ndim() < 2 || b.ndim() < 2 || a.is_empty() || b.is_empty() {
        return Err(bad_node(node, "matrices", format!("{:?} and {:?}", a.shape(), b.shape())));
    }
    let (m, k) = (a.shape()[..a.ndim() - 1].iter().product::<usize>(), a.shape()[a.ndim() - 1]);
    let n = b.shape()[b.ndim() - 1];
    if b.shape()[b.ndim() - 2] != k {
        return Err(bad_node(node, format!("{k} rows"), b.shape()[b.ndim() - 2]));
    }
    let mut dims = a.shape().to_vec();
    dims[a.ndim() - 1] = n;
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    if b.ndim() == 2 {
        let a: ArrayView2<f64> = a.view().into_shape_with_order((m, k)).map_err(shape_error)?;
        let b: ArrayView2<f64> = b.view().into_dimensionality::<Ix2>().map_err(shape_error)?;
        return a.dot(&b).into_shape_with_order(IxDyn(&dims)).map_err(shape_error);
    }
    let rows = a.shape()[a.ndim() - 2];
    let batches = m / rows;
    let a = a.view().into_shape_with_order((batches, rows, k)).map_err(shape_error)?;
    let b = b.view().into_shape_with_order((batches, k, n)).map_err(shape_error)?;
    let mut product = Array::zeros((batches, rows, n));
    for ((mut product, a), b) in product.outer_iter_mut().zip(a.outer_iter()).zip(b.outer_iter()) {
        product.assign(&a.dot(&b));
    }
    product.into_shape_with_order(IxDyn(&dims)).map_err(shape_error)
}

/// An axis, counted from the end if it is negative.
fn check_axis(node: &Node, axis: i64, rank: usize) -> Result<usize> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    let found = usize::try_from(from_start).ok().filter(|axis| *axis < rank);
    found.ok_or_else(|| bad_node(node, format!("an axis below {rank}"), axis))
}

/// Two shapes go together if, from the last dimension on, they are equal or one of them is 1.
fn check_broadcast(node: &Node, a: &[usize], b: &[usize]) -> Result<()> {
    if a.iter().rev().zip(b.iter().rev()).all(|(a, b)| a == b || *a == 1 || *b == 1) {
        return Ok(());
    }
    Err(bad_node(node, "shapes that go together", format!("{a:?} and {b:?}")))
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// The error function, to f64 rounding: its Maclaurin series below 3, the continued fraction of erfc (Abramowitz and
/// Stegun 7.1.14) above.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=60).rev().fold(a, |tail, n| a + f64::from(n) / 2.0 / tail);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

fn attribute<'a>(node: &'a Node, name: &str) -> Option<&'a Attribute> {
    node.attribute.iter().find(|a| a.name.as_deref() == Some(name))
}

/// An attribute that is an integer.
fn number(node: &Node, name: &str, default: i64) -> i64 {
    attribute(node, name).and_then(|a| a.i).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_tabulated_values() {
        // Values as Python's math.erf gives them.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (2.999, 0.999_977_769_831_400_2),
            (3.0, 0.999_977_909_503_001_4),
            (4.0, 0.999_999_984_582_742_1),
            (-1.5, -0.966_105_146_475_310_8),
        ] {
            assert!((erf(x) - expected).abs() < 1e-12, "erf({x}) = {} is not {expected}", erf(x));
        }
    }
}
