"""What is measured: acceptance, losslessness, speed, open-loop load, quality, tuning."""
