//! What the sources say, as pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::{Attribute, Expr, ExprLit, Fields, FnArg, Item, Lit, Meta, Pat, ReturnType, Type};

/// A reference page. All texts are Markdown, as in the sources.
pub struct Page {
    /// The file's name without the section, such as "vmod_powderhorn".
    pub name: &'static str,
    /// The section of the manual.
    pub section: u8,
    /// One line.
    pub brief: &'static str,
    /// What comes before the entries.
    pub intro: String,
    /// What the entries are: a heading.
    pub entries_are: &'static str,
    /// Functions or keys.
    pub entries: Vec<Entry>,
    /// Sections after them, each with its heading.
    pub more: Vec<(&'static str, String)>,
    /// Other pages of the manual.
    pub see_also: &'static [&'static str],
}

/// A function or a key.
pub struct Entry {
    /// How it is written.
    pub head: String,
    /// What it does.
    pub text: String,
}

fn parse(root: &Path, file: &str) -> Result<syn::File, String> {
    let path = root.join(file);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    syn::parse_file(&text).map_err(|e| format!("{file}: {e}"))
}

/// The lines of a documentation comment.
fn doc(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes {
        let Meta::NameValue(pair) = &attribute.meta else {
            continue;
        };
        if let (true, Some(line)) = (pair.path.is_ident("doc"), text(&pair.value)) {
            lines.push(line.strip_prefix(' ').unwrap_or(&line).to_owned());
        }
    }
    lines.join("\n").trim().to_owned()
}

/// A literal as a person writes it: a string without its quotes.
fn text(expression: &Expr) -> Option<String> {
    let Expr::Lit(ExprLit { lit, .. }) = expression else {
        return None;
    };
    match lit {
        Lit::Str(text) => Some(text.value()),
        Lit::Bool(value) => Some(value.value.to_string()),
        Lit::Int(value) => Some(value.to_string()),
        _ => None,
    }
}

/// What comes before a table: the tables in the sources are about files.
fn before_table(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.starts_with('|'));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// The page about the VMOD.
pub fn vcl(root: &Path) -> Result<Page, String> {
    let file = parse(root, "src/lib.rs")?;
    let vmod = file.items.iter().find_map(|item| match item {
        Item::Mod(module) if module.ident == "powderhorn" => module.content.as_ref(),
        _ => None,
    });
    let (_, items) = vmod.ok_or("src/lib.rs: there is no mod powderhorn")?;
    let mut entries = Vec::new();
    for item in items {
        let Item::Fn(function) = item else { continue };
        if function.attrs.iter().any(|a| a.path().is_ident("event")) {
            continue;
        }
        let name = &function.sig.ident;
        let at = |problem: &str| format!("src/lib.rs: {name}(): {problem}");
        let mut arguments = Vec::new();
        for input in &function.sig.inputs {
            let argument = argument(input).map_err(|e| at(&e))?;
            arguments.extend(argument);
        }
        let result = match &function.sig.output {
            ReturnType::Default => "VOID",
            ReturnType::Type(_, ty) => vcl_type(ty).map_err(|e| at(&e))?.0,
        };
        let text = doc(&function.attrs);
        if text.is_empty() {
            return Err(at("no documentation"));
        }
        entries.push(Entry {
            head: format!("{result} {name}({})", arguments.join(", ")),
            text,
        });
    }
    Ok(Page {
        name: "vmod_powderhorn",
        section: 3,
        brief: "purges that reach every node of a Varnish fleet",
        intro: before_table(&doc(&file.attrs)),
        entries_are: "Functions",
        entries,
        more: Vec::new(),
        see_also: &[
            "powderhorn.toml(5)",
            "powderhorn(1)",
            "vcl(7)",
            "varnishd(1)",
        ],
    })
}

/// How an argument is written, if VCL sees it.
fn argument(input: &FnArg) -> Result<Option<String>, String> {
    let FnArg::Typed(input) = input else {
        return Err("takes self".into());
    };
    let is = |attribute: &Attribute, name: &str| attribute.path().is_ident(name);
    let shared = |a: &Attribute| is(a, "shared_per_vcl") || is(a, "shared_per_task");
    if input.attrs.iter().any(shared) || ident(&input.ty).as_deref() == Some("Ctx") {
        return Ok(None);
    }
    let Pat::Ident(name) = &*input.pat else {
        return Err("an argument without a name".into());
    };
    let name = &name.ident;
    let (kind, optional) = vcl_type(&input.ty)?;
    let default = input.attrs.iter().find(|a| is(a, "default"));
    Ok(Some(match default {
        Some(default) => {
            let value: Expr = default.parse_args().map_err(|e| e.to_string())?;
            let value = text(&value).ok_or("a default of a kind that is not known here")?;
            format!("[{kind} {name} = {value}]")
        }
        None if optional => format!("[{kind} {name}]"),
        None => format!("{kind} {name}"),
    }))
}

/// The last name in a type, whatever leads there: `&mut varnish::vcl::Ctx` is `Ctx`.
fn ident(ty: &Type) -> Option<String> {
    match ty {
        Type::Reference(reference) => ident(&reference.elem),
        Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        Type::Tuple(tuple) if tuple.elems.is_empty() => Some("()".into()),
        _ => None,
    }
}

/// What VCL calls a type, and whether it may be left out.
fn vcl_type(ty: &Type) -> Result<(&'static str, bool), String> {
    let name = ident(ty).ok_or("a type that is not known here")?;
    Ok(match name.as_str() {
        "Result" | "Option" => {
            let Type::Path(path) = ty else {
                return Err(format!("an odd {name}"));
            };
            let last = path.path.segments.last().map(|last| &last.arguments);
            let Some(syn::PathArguments::AngleBracketed(list)) = last else {
                return Err(format!("an odd {name}"));
            };
            let Some(syn::GenericArgument::Type(inner)) = list.args.first() else {
                return Err(format!("an odd {name}"));
            };
            (vcl_type(inner)?.0, name == "Option")
        }
        "()" => ("VOID", false),
        "CStr" | "VCL_STRING" | "str" | "String" => ("STRING", false),
        "bool" => ("BOOL", false),
        "i64" => ("INT", false),
        "f64" => ("REAL", false),
        "Duration" => ("DURATION", false),
        "SocketAddr" => ("IP", false),
        other => return Err(format!("the type {other} is not known here")),
    })
}

/// The page about powderhorn.toml.
pub fn config(root: &Path) -> Result<Page, String> {
    let file = parse(root, "crates/node/src/config.rs")?;
    let constants = constants(&file);
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut order = Vec::new();
    for item in &file.items {
        let Item::Struct(item) = item else { continue };
        let Fields::Named(fields) = &item.fields else {
            continue;
        };
        for field in &fields.named {
            let text = doc(&field.attrs);
            // `section.key`: what it is. Other fields hold sections.
            let Some((key, text)) = text.strip_prefix('`').and_then(|t| t.split_once("`: ")) else {
                continue;
            };
            if key.contains('.') && !key.contains(['`', ' ']) {
                found.insert(key.to_owned(), resolved(text, &constants)?);
                order.push(key.to_owned());
            }
        }
    }
    let read = keys_read(root)?;
    let documented: BTreeSet<String> = found.keys().cloned().collect();
    if read != documented {
        let list = |set: Vec<&String>| set.into_iter().cloned().collect::<Vec<_>>().join(", ");
        return Err(format!(
            "crates/node/src/config.rs: keys without documentation: [{}]; documented and not read: [{}]",
            list(read.difference(&documented).collect()),
            list(documented.difference(&read).collect())
        ));
    }
    // By section, in the order of the file that is shown at the top.
    let rank = |key: &String| {
        let section = key.split('.').next().unwrap_or_default();
        let order = ["node", "fleet", "peer", "purge", "journal", "limits"];
        order
            .iter()
            .position(|known| *known == section)
            .unwrap_or(order.len())
    };
    order.sort_by_key(rank);
    let entries = order.into_iter().map(|key| Entry {
        text: found.remove(&key).unwrap_or_default(),
        head: key,
    });
    let module = |name: &str| -> Result<String, String> {
        let file = parse(root, &format!("crates/node/src/{name}.rs"))?;
        resolved(&before_table(&doc(&file.attrs)), &constants)
    };
    Ok(Page {
        name: "powderhorn.toml",
        section: 5,
        brief: "what an operator decides about a node of a Powderhorn fleet",
        intro: before_table(&doc(&file.attrs)),
        entries_are: "Keys",
        entries: entries.collect(),
        more: vec![
            ("The key file", module("keys")?),
            ("The nodes file", module("nodes")?),
        ],
        see_also: &["vmod_powderhorn(3)", "powderhorn(1)", "varnishd(1)"],
    })
}

/// Text with what only makes sense in the sources put into words: links to constants, and to modules.
fn resolved(text: &str, constants: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = text
        .replace("see the module `keys`", "see \"The key file\"")
        .replace("see the module `nodes`", "see \"The nodes file\"");
    while let Some(start) = out.find("[`") {
        let Some(length) = out[start..].find("`]") else {
            break;
        };
        let name = &out[start + 2..start + length];
        let value = constants
            .get(name)
            .ok_or_else(|| format!("a link to {name}, which a reader of the page cannot follow"))?;
        out.replace_range(start..start + length + 2, value);
    }
    Ok(out)
}

/// Constants that are a text or a list of texts.
fn constants(file: &syn::File) -> BTreeMap<String, String> {
    let constants = file.items.iter().filter_map(|item| {
        let Item::Const(item) = item else { return None };
        let value = match &*item.expr {
            Expr::Array(list) => {
                let texts: Option<Vec<String>> = list.elems.iter().map(text).collect();
                texts?.join(", ")
            }
            other => text(other)?,
        };
        Some((item.ident.to_string(), value))
    });
    constants.collect()
}

/// The keys that the parser takes, as `section.key`.
fn keys_read(root: &Path) -> Result<BTreeSet<String>, String> {
    let file = parse(root, "crates/node/src/parse.rs")?;
    let mut structs = BTreeMap::new();
    for item in &file.items {
        if let Item::Struct(item) = item {
            let fields = item.fields.iter().filter_map(|field| {
                let name = field.ident.as_ref()?.to_string();
                Some((name, raw(&field.ty).unwrap_or_default()))
            });
            structs.insert(item.ident.to_string(), fields.collect::<Vec<_>>());
        }
    }
    let sections = structs
        .get("RawFile")
        .ok_or("crates/node/src/parse.rs: there is no struct RawFile")?;
    let keys = sections.iter().flat_map(|(section, kind)| {
        let fields = structs.get(kind).into_iter().flatten();
        fields.map(move |(key, _)| format!("{section}.{key}"))
    });
    Ok(keys.collect())
}

/// The struct of a section in a field's type: `Vec<Spanned<RawPeer>>` is about `RawPeer`.
fn raw(ty: &Type) -> Option<String> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    if let syn::PathArguments::AngleBracketed(list) = &last.arguments {
        return list.args.iter().find_map(|argument| match argument {
            syn::GenericArgument::Type(ty) => raw(ty),
            _ => None,
        });
    }
    let name = last.ident.to_string();
    name.starts_with("Raw").then_some(name)
}
