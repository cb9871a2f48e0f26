import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import type { Json } from './service.ts';

/** A span as it was received; ids in hexadecimal, `parent` empty for the first of a trace. */
export interface ReceivedSpan {
  service: string;
  trace: string;
  id: string;
  parent: string;
  name: string;
  kind: number;
  attributes: Record<string, Json>;
  events: { name: string; attributes: Record<string, Json> }[];
  /** 2 is an error. */
  status: { code: number; message: string };
}

/** An OpenTelemetry collector on loopback that takes spans as OTLP over HTTP, in protobuf, and keeps them. */
export async function startCollector() {
  const spans: ReceivedSpan[] = [];
  const server = createServer(async (request, response) => {
    if (request.url === '/v1/traces') spans.push(...spansIn(await buffer(request)));
    response.writeHead(request.url === '/v1/traces' ? 200 : 404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans,
    async stop(): Promise<void> {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Values of one message by the number of their field: bytes and messages as Buffers, numbers as BigInts. */
type Message = Map<number, (Buffer | bigint)[]>;

/** Reads one protobuf message: https://protobuf.dev/programming-guides/encoding */
function read(bytes: Buffer): Message {
  const message: Message = new Map();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes.readUInt8(at++);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const take = (length: number) => {
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const types = [varint, () => take(8).readBigUInt64LE(), () => take(Number(varint()))];
    const value = (types[tag & 7] ?? (() => BigInt(take(4).readUInt32LE())))();
    message.set(tag >> 3, [...(message.get(tag >> 3) ?? []), value]);
  }
  return message;
}

const messagesIn = (message: Message, field: number) => (message.get(field) ?? []).map((one) => read(one as Buffer));
const bytesIn = (message: Message, field: number) => (message.get(field)?.[0] ?? Buffer.alloc(0)) as Buffer;
const textIn = (message: Message, field: number) => bytesIn(message, field).toString();
const numberIn = (message: Message, field: number) => Number(message.get(field)?.[0] ?? 0);

/** The numbers of fields are those of opentelemetry/proto/trace/v1/trace.proto. */
function spansIn(bytes: Buffer): ReceivedSpan[] {
  return messagesIn(read(bytes), 1).flatMap((resourceSpans) => {
    const resource = Object.assign({}, ...messagesIn(resourceSpans, 1).map((one) => attributesIn(one, 1)));
    return messagesIn(resourceSpans, 2)
      .flatMap((scopeSpans) => messagesIn(scopeSpans, 2))
      .map((span) => {
        const [status = new Map()] = messagesIn(span, 15);
        return {
          service: resource['service.name'],
          trace: bytesIn(span, 1).toString('hex'),
          id: bytesIn(span, 2).toString('hex'),
          parent: bytesIn(span, 4).toString('hex'),
          name: textIn(span, 5),
          kind: numberIn(span, 6),
          attributes: attributesIn(span, 9),
          events: messagesIn(span, 11).map((event) => ({ name: textIn(event, 2), attributes: attributesIn(event, 3) })),
          status: { code: numberIn(status, 3), message: textIn(status, 2) },
        };
      });
  });
}

function attributesIn(message: Message, field: number): Record<string, Json> {
  return Object.fromEntries(
    messagesIn(message, field).map((pair) => [textIn(pair, 1), anyOf(messagesIn(pair, 2)[0] as Message)]),
  );
}

function anyOf(value: Message): Json {
  if (value.has(1)) return textIn(value, 1);
  if (value.has(2)) return numberIn(value, 2) === 1;
  if (value.has(3)) return Number(BigInt.asIntN(64, value.get(3)?.[0] as bigint));
  const bits = Buffer.alloc(8);
  bits.writeBigUInt64LE((value.get(4)?.[0] ?? 0n) as bigint);
  return bits.readDoubleLE();
}
