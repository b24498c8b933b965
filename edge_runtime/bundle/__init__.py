"""The bundle: the folder that training writes, convert adds engines to and everything else reads."""
