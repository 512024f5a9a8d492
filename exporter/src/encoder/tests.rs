use bias_patch::Digest;
use edge_bundle::{Disentangled, Family, Relative, Rotary, Window, onnx::DimValue};
use prost::Message;

use super::*;

/// A small encoder of every family.
fn configs() -> [Config; 10] {
    let bert = Config {
        family: Family::Bert,
        layers: 2,
        hidden: 8,
        embedding: 8,
        heads: 2,
        intermediate: 12,
        vocabulary: 11,
        max_length: 6,
        position_offset: 0,
        token_types: 2,
        activation: Activation::Gelu,
        layer_norm_epsilon: 1e-5,
        pooler: true,
        relative: None,
        disentangled: None,
        rotary: None,
        window: None,
    };
    let family = |family, activation| Config { family, activation, ..bert.clone() };
    let relative = Some(Relative { buckets: 8, max_distance: 4 });
    let rotary = Some(Rotary { theta: 1000.0, local_theta: 100.0, ntk_factor: 1.0 });
    let disentangled = Some(Disentangled { buckets: 8, max_distance: 6 });
    let window = Some(Window { reach: 1, global_every: 2 });
    [
        bert.clone(),
        Config { token_types: 1, position_offset: 2, ..family(Family::Roberta, Activation::GeluTanh) },
        Config { token_types: 0, pooler: false, ..family(Family::DistilBert, Activation::Relu) },
        Config { embedding: 4, pooler: false, ..family(Family::Electra, Activation::Gelu) },
        Config { token_types: 0, position_offset: 2, relative, ..family(Family::MpNet, Activation::Gelu) },
        Config { token_types: 0, pooler: false, rotary, window, ..family(Family::ModernBert, Activation::Gelu) },
        Config { embedding: 4, ..family(Family::Albert, Activation::GeluTanh) },
        Config { pooler: false, rotary, ..family(Family::NomicBert, Activation::Silu) },
        Config { token_types: 0, pooler: false, rotary, ..family(Family::Gte, Activation::Gelu) },
        Config { token_types: 0, pooler: false, disentangled, ..family(Family::DebertaV2, Activation::Gelu) },
    ]
}

#[test]
fn encoder_onnx_is_the_same_bytes_in_every_version() {
    // If the graph is meant to change, write the digests that this prints.
    let expected = [
        [
            "fbc0f56ecea5d185",
            "5ab9e6848bd3cb36",
            "6e2ffd34d2ea5a60",
            "ea1db4b46d132c1b",
            "966f04eb187d1c81",
            "0486e6f2ea1ba139",
            "939f939900dd0466",
            "68364f671f8fd1e7",
            "1dab9bb2a7eff580",
            "bd8a10ff431d0912",
        ],
        [
            "d2ddbd8db588a310",
            "74abedc59cf425ca",
            "70b675c4dc6d3ebf",
            "e15964379f24dca4",
            "b096b28a19cd0e60",
            "871ac7d05c67c7e3",
            "3522232b57bf17bb",
            "cdc7822dc6635f92",
            "b7bcc7a84151e1bd",
            "88c2c6746b01f2f6",
        ],
        [
            "9224dd6a8b6ef412",
            "4803c95f8c6be7c2",
            "4408870cb5bd4494",
            "9131573bd57d9964",
            "d0262a5411cedb0d",
            "ac2e980bd8119a89",
            "2f981cb67bd5b139",
            "54b8efb3d75b2520",
            "1131a216c4920cde",
            "6be3266515936a6c",
        ],
        [
            "eb38764f2bc29d16",
            "50b709e640d29b90",
            "3f5672a025da555f",
            "1e55d08e9f85e4af",
            "7793f38fadbc5c45",
            "6b2b689db5b60953",
            "3cc9fdfe6c43b7de",
            "3907a43deab41987",
            "d53bcfc93b3f9300",
            "ed9d56145d71d4a5",
        ],
    ];
    let digest = |config, element, low_rank_inputs| {
        let bytes = build(&config, element, low_rank_inputs).finish("test").0.encode_to_vec();
        Digest::of(&bytes).to_string()[..16].to_owned()
    };
    let kinds = [(Element::F32, false), (Element::I8, false), (Element::F32, true), (Element::I8, true)];
    assert_eq!(kinds.map(|(element, terms)| configs().map(|config| digest(config, element, terms))), expected);
    // To a graph int4 is int8.
    assert_eq!(configs().map(|config| digest(config, Element::I4, false)), expected[1]);
}

#[test]
fn slots_have_defaults_and_nothing_else_has() {
    for config in configs() {
        for low_rank_inputs in [false, true] {
            let (model, _, slots) = build(&config, Element::F32, low_rank_inputs).finish("test");
            let graph = model.graph.unwrap();
            let has_default = |name: &str| graph.initializer.iter().any(|tensor| tensor.name() == name);
            let (mut defaulted, required): (Vec<&str>, Vec<&str>) =
                graph.input.iter().map(|input| input.name()).partition(|name| has_default(name));
            // Slots are in the order of files, inputs in that of the graph.
            let mut due: Vec<String> = slots
                .iter()
                .flat_map(|slot| {
                    let terms = low_rank_inputs && config.takes_low_rank(slot.module);
                    let terms = terms.then(|| Slot::low_rank_inputs(&slot.name)).into_iter().flatten();
                    [slot.name.clone()].into_iter().chain(terms)
                })
                .collect();
            defaulted.sort_unstable();
            due.sort_unstable();
            assert_eq!(defaulted, due);
            let types = (config.token_types > 1).then_some("token_type_ids");
            let expected: Vec<&str> = ["input_ids", "attention_mask"].into_iter().chain(types).collect();
            assert_eq!(required, expected, "{:?}", config.family);
        }
    }
}

#[test]
fn each_low_rank_term_has_a_rank_of_its_own() {
    let config = &configs()[3];
    let graph = build(config, Element::F32, true).finish("test").0.graph.unwrap();
    let dims_of = |name: &str| {
        let input = graph.input.iter().find(|input| input.name() == name).unwrap();
        let dims = input.dims().iter().map(|dim| match dim.value.as_ref().unwrap() {
            DimValue::Param(symbol) => symbol.clone(),
            DimValue::Value(number) => number.to_string(),
        });
        let default = graph.initializer.iter().find(|tensor| tensor.name() == name).unwrap();
        assert_eq!(default.raw_data(), b"", "{name}");
        (dims.collect::<Vec<_>>(), default.dims.clone())
    };
    let output = "encoder.layer.1.output.dense";
    let rank = || format!("{output}.rank");
    let (a, b) = (format!("{output}.lora_A.weight"), format!("{output}.lora_B.weight"));
    assert_eq!(dims_of(&a), (vec![rank(), "12".to_owned()], vec![0, 12]));
    assert_eq!(dims_of(&b), (vec!["8".to_owned(), rank()], vec![8, 0]));
    let projection = "embeddings_project";
    let (dims, default) = dims_of(&format!("{projection}.lora_A.weight"));
    assert_eq!((dims, default), (vec![format!("{projection}.rank"), "4".to_owned()], vec![0, 4]));
}
