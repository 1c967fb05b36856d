/*
 * A training loop written in C that marks its own steps and phases.
 *
 * Build it with nothing but the header:  cc -Iinclude examples/marks.c -o marks
 * Without libnnmemhook.so the marks do nothing; with LD_PRELOAD=.../libnnmemhook.so they name what is recorded on this thread.
 * Here the "network" is a table of numbers, so that the example needs no other library.
 */
#include <nnmem/nnmem.h>

#include <stdio.h>

#define NR_STEPS   3
#define NR_WEIGHTS 8

int main(void)
{
	double weights[NR_WEIGHTS] = {0};

	for (int step = 0; step < NR_STEPS; step++) {
		double error = 0;

		nnmem_step();

		nnmem_phase_begin(NNMEM_PHASE_FORWARD);
		for (int i = 0; i < NR_WEIGHTS; i++)
			error += (1 - weights[i]) * (1 - weights[i]);
		nnmem_phase_end();

		nnmem_phase_begin(NNMEM_PHASE_OPTIMIZER);
		for (int i = 0; i < NR_WEIGHTS; i++)
			weights[i] += 0.5 * (1 - weights[i]);
		nnmem_phase_end();

		printf("step %d: error %.3f\n", step + 1, error);
	}
	printf("marks %s\n", nnmem_mark_step ? "recorded by nnmem" : "ignored: run without nnmem");
	return 0;
}
