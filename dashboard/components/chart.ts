/** Bars of one colour, one for each label. `colour` names a custom property. */
export interface Series {
  name: string;
  colour: `--${string}`;
  values: number[];
}

export interface Bars {
  labels: string[];
  /** Stacked in this order. */
  series: Series[];
  /** The end of the scale; by default the highest bar. */
  max?: number | undefined;
}

/** A chart on a canvas. chart.js is loaded with the first one. */
export async function openChart(canvas: HTMLCanvasElement) {
  const { BarController, BarElement, CategoryScale, Chart, Legend, LinearScale, Tooltip } = await import('chart.js');
  Chart.register(BarController, BarElement, CategoryScale, Legend, LinearScale, Tooltip);
  const chart = new Chart<'bar', number[], string>(canvas, { type: 'bar', data: { labels: [], datasets: [] } });

  /** The colour of the current theme: a custom property must be resolved first. */
  function colourOf(property: string): string {
    canvas.style.color = `var(${property})`;
    return getComputedStyle(canvas).color;
  }

  return {
    show({ labels, series, max }: Bars): void {
      const color = colourOf('--muted');
      const lines = { color: colourOf('--line') };
      const font = { family: getComputedStyle(canvas).fontFamily };
      // All options again, since scales keep their old colours.
      chart.options = {
        animation: false,
        maintainAspectRatio: false,
        scales: {
          x: { stacked: true, grid: { display: false }, ticks: { color, font, maxTicksLimit: 6, maxRotation: 0 } },
          y: {
            stacked: true,
            beginAtZero: true,
            grid: lines,
            ticks: { color, font, precision: 0, maxTicksLimit: 5 },
            ...(max !== undefined && { max }),
          },
        },
        plugins: { legend: { onClick: () => undefined, labels: { color, font, boxWidth: 12 } } },
      };
      chart.data.labels = labels;
      chart.data.datasets = series.map(({ name, colour, values }) => ({
        label: name,
        data: values,
        backgroundColor: colourOf(colour),
        categoryPercentage: 0.9,
        barPercentage: 1,
      }));
      chart.update('none');
    },
    close: () => chart.destroy(),
  };
}
