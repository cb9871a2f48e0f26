import type { Answer } from '../api/http.ts';

export type Relative = Answer<'jobGraph'>['items'][number];

/** An edge from a prerequisite to its dependant, or from a parent to its child. */
export interface Edge {
  kind: 'prerequisite' | 'part';
  from: string;
  to: string;
}

interface Point {
  x: number;
  y: number;
}

/** Places of the nodes by id (their centre), and the edges as SVG paths. */
export interface Drawing {
  width: number;
  height: number;
  nodes: Map<string, Point>;
  edges: (Edge & { path: string })[];
}

export const NODE = { width: 190, height: 62 };
const MARGIN = 12;

export function edgesOf(jobs: Relative[]): Edge[] {
  const shown = new Set(jobs.map(({ job_id }) => job_id));
  return jobs
    .flatMap(({ job_id: to, depends_on, parent_id }): Edge[] => [
      ...depends_on.map((from) => ({ kind: 'prerequisite' as const, from, to })),
      ...(parent_id === null ? [] : [{ kind: 'part' as const, from: parent_id, to }]),
    ])
    .filter(({ from }) => shown.has(from));
}

/** Lays jobs out from left to right, prerequisites first. */
export async function draw(ids: string[], edges: Edge[]): Promise<Drawing> {
  const { Graph, layout } = await import('@dagrejs/dagre');
  const graph = new Graph();
  graph.setGraph({ rankdir: 'LR', nodesep: 16, ranksep: 56, marginx: MARGIN, marginy: MARGIN });
  for (const id of ids) graph.setNode(id, { ...NODE });
  for (const { from, to } of edges) graph.setEdge(from, to, {});
  layout(graph);
  const { width = 0, height = 0 } = graph.graph() as { width?: number; height?: number };
  return {
    width,
    height,
    nodes: new Map(ids.map((id) => [id, graph.node(id) as Point])),
    edges: edges.map((edge) => ({
      ...edge,
      path: pathOf((graph.edge(edge.from, edge.to) as { points: Point[] }).points),
    })),
  };
}

/** A line with rounded bends at its inner points. */
function pathOf(points: Point[]): string {
  const [start, ...rest] = points.map(({ x, y }) => ({ x: Math.round(x), y: Math.round(y) })) as [Point, ...Point[]];
  const bends = rest.slice(0, -1).map((bend, index) => {
    const next = rest[index + 1] as Point;
    const isLast = index === rest.length - 2;
    const end = isLast ? next : { x: (bend.x + next.x) / 2, y: (bend.y + next.y) / 2 };
    return `Q${bend.x} ${bend.y} ${end.x} ${end.y}`;
  });
  return `M${start.x} ${start.y}${bends.join('')}`;
}
