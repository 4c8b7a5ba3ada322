"""What penstock costs, each question beside the standard library's answer."""
