import fc from 'fast-check';
import type { Json } from '../../support/service.ts';

const DEPTH = 4;

/**
 * Values that a JSON Schema of the OpenAPI document allows, mostly: what it says of lengths and patterns is kept only
 * roughly, and now and then a value is of another kind altogether. `resolve` follows a `$ref`.
 */
export function valueFor(reference: Json, resolve: (schema: Json) => Json, depth = DEPTH): fc.Arbitrary<unknown> {
  const schema = resolve(reference) ?? {};
  const inner = (part: Json) => valueFor(part, resolve, depth - 1);
  const wrong = depth > 1 ? fc.jsonValue({ maxDepth: 2 }) : fc.constant(null);
  return fc.oneof({ weight: 12, arbitrary: right() }, { weight: 1, arbitrary: wrong });

  function right(): fc.Arbitrary<unknown> {
    if (schema.const !== undefined) return fc.constant(schema.const);
    if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
    const options = schema.anyOf ?? schema.oneOf;
    if (options !== undefined) return fc.oneof(...options.map(inner));
    if (depth === 0) return fc.constant(null);
    const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
    switch (type) {
      case 'object': {
        const properties = Object.entries((schema.properties ?? {}) as Json);
        const model = Object.fromEntries(properties.map(([name, property]) => [name, inner(property)]));
        const extra = fc.dictionary(fc.string({ maxLength: 20 }), fc.jsonValue({ maxDepth: 1 }), { maxKeys: 2 });
        const known = fc.record(model, { requiredKeys: schema.required ?? [] });
        return schema.additionalProperties === false
          ? fc.oneof({ weight: 9, arbitrary: known }, { weight: 1, arbitrary: merged(known, extra) })
          : merged(known, extra);
      }
      case 'array':
        return fc.array(inner(schema.items), { maxLength: 4 });
      case 'integer':
        return fc.integer({ min: bound(schema.minimum, -10), max: bound(schema.maximum, 1_000) });
      case 'number':
        return fc.double({ min: bound(schema.minimum, -10), max: bound(schema.maximum, 1_000), noNaN: true });
      case 'boolean':
        return fc.boolean();
      case 'null':
        return fc.constant(null);
      default:
        return text();
    }
  }

  function text(): fc.Arbitrary<string> {
    switch (schema.format) {
      case 'uuid':
        return fc.uuid();
      case 'date-time':
        return fc.date({ noInvalidDate: true }).map((date) => date.toISOString());
      case 'uri':
        return fc.webUrl();
      default:
        return fc.string({ maxLength: Math.min(schema.maxLength ?? 30, 300) });
    }
  }
}

function merged(known: fc.Arbitrary<object>, extra: fc.Arbitrary<object>): fc.Arbitrary<object> {
  return fc.tuple(known, extra).map(([one, other]) => ({ ...other, ...one }));
}

/** JSON Schema of whole numbers ends where they are safe; so far out nothing new is found. */
function bound(value: number | undefined, otherwise: number): number {
  return value === undefined || Math.abs(value) > 1e12 ? otherwise : value;
}
