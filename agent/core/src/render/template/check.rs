//! What is refused in a template before anything of it runs.

use minijinja::machinery::ast::{BinOpKind, Call, CallArg, Expr, Macro, Stmt};

const ALONE: &str = "a template can't refer to others: block, include, import and extends are not supported";

/// What a template must not hold, and the line where it does.
pub(super) struct Refused {
    pub(super) line: usize,
    pub(super) message: &'static str,
}

/// What the check learns on the way.
#[derive(Default)]
pub(super) struct Shape {
    /// The longest plain text that may be written more than once: in a loop, a macro or a captured block.
    pub(super) longest_repeated: usize,
    repeats: bool,
    pub(super) refused: Vec<Refused>,
}

impl Shape {
    fn refuse(&mut self, line: u16, message: &'static str) {
        self.refused.push(Refused { line: usize::from(line), message });
    }

    pub(super) fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.body(&template.children),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            Stmt::EmitRaw(raw) => {
                if self.repeats {
                    self.longest_repeated = self.longest_repeated.max(raw.raw.len());
                }
            }
            Stmt::ForLoop(each) => {
                self.expressions([Some(&each.target), Some(&each.iter), each.filter_expr.as_ref()]);
                self.repeated(&each.body);
                self.body(&each.else_body);
            }
            Stmt::IfCond(cond) => {
                self.expression(&cond.expr);
                self.body(&cond.true_body);
                self.body(&cond.false_body);
            }
            Stmt::WithBlock(with) => {
                for (target, value) in &with.assignments {
                    self.expressions([Some(target), Some(value)]);
                }
                self.body(&with.body);
            }
            Stmt::Set(set) => self.expressions([Some(&set.target), Some(&set.expr)]),
            Stmt::SetBlock(set) => {
                self.expressions([Some(&set.target), set.filter.as_ref()]);
                self.repeated(&set.body);
            }
            Stmt::AutoEscape(escape) => {
                self.refuse(escape.span().start_line, "autoescape is not supported");
            }
            Stmt::FilterBlock(block) => {
                self.expression(&block.filter);
                self.repeated(&block.body);
            }
            Stmt::Macro(declared) => self.declared(declared),
            Stmt::CallBlock(block) => {
                self.call(&block.call);
                self.declared(&block.macro_decl);
            }
            Stmt::Do(call) => self.call(&call.call),
            Stmt::Block(block) => self.refuse(block.span().start_line, ALONE),
            Stmt::Import(import) => self.refuse(import.span().start_line, ALONE),
            Stmt::FromImport(import) => self.refuse(import.span().start_line, ALONE),
            Stmt::Extends(extends) => self.refuse(extends.span().start_line, ALONE),
            Stmt::Include(include) => self.refuse(include.span().start_line, ALONE),
        }
    }

    fn body(&mut self, statements: &[Stmt<'_>]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn repeated(&mut self, statements: &[Stmt<'_>]) {
        let before = std::mem::replace(&mut self.repeats, true);
        self.body(statements);
        self.repeats = before;
    }

    fn declared(&mut self, declared: &Macro<'_>) {
        declared.args.iter().chain(&declared.defaults).for_each(|expr| self.expression(expr));
        self.repeated(&declared.body);
    }

    fn call(&mut self, call: &Call<'_>) {
        self.expression(&call.expr);
        self.arguments(&call.args);
    }

    fn arguments(&mut self, args: &[CallArg<'_>]) {
        for arg in args {
            match arg {
                CallArg::Pos(expr) | CallArg::Kwarg(_, expr) => self.expression(expr),
                CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                    self.refuse(expr.span().start_line, "* and ** in calls are not supported");
                }
            }
        }
    }

    fn expressions<'a, const N: usize>(&mut self, expressions: [Option<&Expr<'a>>; N]) {
        expressions.into_iter().flatten().for_each(|expr| self.expression(expr));
    }

    fn expression(&mut self, expr: &Expr<'_>) {
        match expr {
            Expr::Var(_) | Expr::Const(_) => {}
            Expr::Slice(slice) => self.expressions([
                Some(&slice.expr),
                slice.start.as_ref(),
                slice.stop.as_ref(),
                slice.step.as_ref(),
            ]),
            Expr::UnaryOp(op) => self.expression(&op.expr),
            Expr::BinOp(op) => {
                if matches!(op.op, BinOpKind::Mul) && is_literal(expr) && !is_arithmetic(expr) {
                    // The compiler would work it out, and nothing bounds the compiler.
                    self.refuse(op.span().start_line, "repeating a literal is not supported: write it out");
                }
                self.expressions([Some(&op.left), Some(&op.right)]);
            }
            Expr::Compare(compare) => {
                self.refuse(
                    compare.span().start_line,
                    "chained comparisons are not supported: join two by 'and'",
                );
            }
            Expr::IfExpr(cond) => {
                self.expressions([Some(&cond.test_expr), Some(&cond.true_expr), cond.false_expr.as_ref()]);
            }
            Expr::Filter(filter) => {
                self.expressions([filter.expr.as_ref()]);
                self.arguments(&filter.args);
            }
            Expr::Test(test) => {
                self.expression(&test.expr);
                self.arguments(&test.args);
            }
            Expr::GetAttr(get) => self.expression(&get.expr),
            Expr::GetItem(get) => self.expressions([Some(&get.expr), Some(&get.subscript_expr)]),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.items.iter().for_each(|item| self.expression(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expression(item)),
            Expr::Map(map) => map.keys.iter().chain(&map.values).for_each(|item| self.expression(item)),
        }
    }
}

/// Whether nothing but literals stand in it.
fn is_literal(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(_) => true,
        Expr::UnaryOp(op) => is_literal(&op.expr),
        Expr::BinOp(op) => is_literal(&op.left) && is_literal(&op.right),
        Expr::List(list) => list.items.iter().all(is_literal),
        Expr::Tuple(tuple) => tuple.items.iter().all(is_literal),
        Expr::Map(map) => map.keys.iter().chain(&map.values).all(is_literal),
        _ => false,
    }
}

/// Whether nothing but numbers stand in it.
fn is_arithmetic(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(constant) => constant.value.is_number(),
        Expr::UnaryOp(op) => is_arithmetic(&op.expr),
        Expr::BinOp(op) => {
            !matches!(op.op, BinOpKind::Concat) && is_arithmetic(&op.left) && is_arithmetic(&op.right)
        }
        _ => false,
    }
}
