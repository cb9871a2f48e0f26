import type { Context } from './sheet.ts';

type Matrix = [number, number, number, number, number, number];

/** What of a context of @napi-rs/canvas has to do with its state. */
interface Native extends Context {
  save(): void;
  restore(): void;
  translate(x: number, y: number): void;
  scale(x: number, y: number): void;
  getTransform(): Record<'a' | 'b' | 'c' | 'd' | 'e' | 'f', number>;
  setTransform(...matrix: Matrix): void;
  fill(...args: unknown[]): void;
}

const LATE = Symbol('late');

/** A save that was asked for and not made: the native context is as it was, but for its transform. */
interface Late {
  /** The transform that the native context ought to have, and whether it has another. */
  base: Matrix;
  moved: boolean;
  /** What it was scaled and moved by since the save; null once it was restored. */
  since: { scaleX: number; scaleY: number; x: number; y: number } | null;
}

type Lazy = Native & { [LATE]?: Late | null };

let prototype: object | undefined;

/**
 * Lets a context make its saves late, or never: not when nothing comes before the restore but moves and fills of paths. pdf.js
 * draws each letter so, and for @napi-rs/canvas that took twice as long as a fill. Pixels differ by rounding.
 */
export function saveLate(context: Context): void {
  prototype ??= derive(Object.getPrototypeOf(context));
  Object.setPrototypeOf(context, prototype);
}

/** All methods and setters make first what is late; five know better. */
function derive(native: Native): object {
  const derived: object = Object.create(native);
  for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(native))) {
    const { value, set } = property;
    if (name === 'constructor' || (typeof value !== 'function' && !set)) continue;
    const late = set
      ? {
          set(this: Lazy, to: unknown) {
            settle(this);
            set.call(this, to);
          },
        }
      : {
          value(this: Lazy, ...args: unknown[]) {
            settle(this);
            return value.apply(this, args);
          },
        };
    Object.defineProperty(derived, name, { ...property, ...late });
  }

  function settle(context: Lazy): void {
    const late = context[LATE];
    if (!late) return;
    context[LATE] = null;
    if (late.moved) native.setTransform.apply(context, late.base);
    if (!late.since) return;
    native.save.call(context);
    // Unlike its setTransform, these leave alone what there is of a path.
    native.translate.call(context, late.since.x, late.since.y);
    native.scale.call(context, late.since.scaleX, late.since.scaleY);
  }

  return Object.assign(derived, {
    save(this: Lazy): void {
      if (this[LATE]?.since) settle(this);
      if (!this[LATE]) {
        const { a, b, c, d, e, f } = native.getTransform.call(this);
        this[LATE] = { base: [a, b, c, d, e, f], moved: false, since: null };
      }
      this[LATE].since = { scaleX: 1, scaleY: 1, x: 0, y: 0 };
    },
    restore(this: Lazy): void {
      if (this[LATE]?.since) {
        this[LATE].since = null;
      } else {
        settle(this);
        native.restore.call(this);
      }
    },
    translate(this: Lazy, x: number, y: number): void {
      const since = this[LATE]?.since;
      if (since) {
        since.x += since.scaleX * x;
        since.y += since.scaleY * y;
      } else {
        settle(this);
        native.translate.call(this, x, y);
      }
    },
    scale(this: Lazy, x: number, y: number): void {
      const since = this[LATE]?.since;
      if (since) {
        since.scaleX *= x;
        since.scaleY *= y;
      } else {
        settle(this);
        native.scale.call(this, x, y);
      }
    },
    fill(this: Lazy, ...args: unknown[]): void {
      const late = this[LATE];
      // Without a path of its own it fills the one that the calls before it have made.
      if (late?.since && typeof args[0] === 'object') {
        const { scaleX, scaleY, x, y } = late.since;
        const [a, b, c, d, e, f] = late.base;
        native.setTransform.call(
          this,
          a * scaleX,
          b * scaleX,
          c * scaleY,
          d * scaleY,
          a * x + c * y + e,
          b * x + d * y + f,
        );
        late.moved = true;
      } else {
        settle(this);
      }
      native.fill.apply(this, args);
    },
  });
}
