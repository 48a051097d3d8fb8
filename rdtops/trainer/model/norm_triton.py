"""The norm's kernels in Triton: rdtops.trainer.model.norm_kernels launches them, and no other module imports this one.

A row is one vector that is normalised. The rows of a tensor have up to three axes (of sizes *, D1 and D2) with any
strides; the numbers of a row lie side by side. All arithmetic is float32. No program adds to what another one wrote, so
the same input gives the same bits.

Only what Triton 2.1 has is used: that is the one of torch 2.1.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=[5, 6, 7])  # sizes: one kernel for all of them
def scale_rows(x_ptr, weight_ptr, y_ptr, scale_ptr, eps, rows, D1, D2, x0, x1, x2, y0, y1, y2,
               WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, CENTRED: tl.constexpr):
    """y = x * scale * weight with scale = 1 / sqrt(power + eps), which is written too: ROWS rows a program."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    i0, i1, i2 = row // D2 // D1, row // D2 % D1, row % D2
    is_row, is_column = row < rows, column < WIDTH
    mask = is_row[:, None] & is_column[None, :]
    x = tl.load(x_ptr + (i0 * x0 + i1 * x1 + i2 * x2)[:, None] + column[None, :], mask=mask, other=0.0).to(tl.float32)
    if CENTRED:
        apart = tl.where(mask, x - (tl.sum(x, 1) / WIDTH)[:, None], 0.0)
        power = tl.sum(apart * apart, 1) / (WIDTH - 1)
    else:
        power = tl.sum(x * x, 1) / WIDTH
    scale = 1 / tl.sqrt(power + eps)
    weight = tl.load(weight_ptr + column, mask=is_column, other=0.0).to(tl.float32)
    y = x * scale[:, None] * weight[None, :]
    y_ptrs = y_ptr + (i0 * y0 + i1 * y1 + i2 * y2)[:, None] + column[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(scale_ptr + row, scale, mask=is_row)


@triton.jit(do_not_specialize=[6, 7, 8, 9])
def scale_rows_backward(gradient_ptr, x_ptr, weight_ptr, scale_ptr, grad_x_ptr, partial_ptr, rows, D1, D2, turns,
                        g0, g1, g2, x0, x1, x2, o0, o1, o2,
                        WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, CENTRED: tl.constexpr):
    """The gradient of x, and of each program's `turns` times ROWS rows their part of the gradient of the weight."""
    program = tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    is_column = column < WIDTH
    weight = tl.load(weight_ptr + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for turn in range(turns):
        row = ((program * turns + turn) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        i0, i1, i2 = row // D2 // D1, row // D2 % D1, row % D2
        is_row = row < rows
        mask = is_row[:, None] & is_column[None, :]
        x = tl.load(x_ptr + (i0 * x0 + i1 * x1 + i2 * x2)[:, None] + column[None, :], mask=mask,
                    other=0.0).to(tl.float32)
        gradient = tl.load(gradient_ptr + (i0 * g0 + i1 * g1 + i2 * g2)[:, None] + column[None, :], mask=mask,
                           other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + row, mask=is_row, other=0.0)
        total += x * scale[:, None] * gradient
        weighed = gradient * weight
        # the derivative of the row's power by x; for centred rows around their mean
        pull = tl.sum(weighed * x, 1) * scale * scale * scale
        if CENTRED:
            pull = pull / (WIDTH - 1)
            apart = x - (tl.sum(x, 1) / WIDTH)[:, None]
        else:
            pull = pull / WIDTH
            apart = x
        grad_x = weighed * scale[:, None] - apart * pull[:, None]
        grad_x_ptrs = grad_x_ptr + (i0 * o0 + i1 * o1 + i2 * o2)[:, None] + column[None, :]
        tl.store(grad_x_ptrs, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    tl.store(partial_ptr + program * WIDTH + column, tl.sum(total, 0), mask=is_column)


@triton.jit(do_not_specialize=[2])
def sum_partials(partial_ptr, grad_weight_ptr, partials,
                 WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """The gradient of the weight: the sum of the programs' parts, COLUMNS numbers a program."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for start in range(0, partials, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < partials)[:, None] & (column < WIDTH)[None, :]
        total += tl.load(partial_ptr + row[:, None] * WIDTH + column[None, :], mask=mask, other=0.0)
    tl.store(grad_weight_ptr + column, tl.sum(total, 0).to(grad_weight_ptr.dtype.element_ty), mask=column < WIDTH)
